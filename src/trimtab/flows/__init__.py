"""The loop as idempotent steps with their journal, the supervisor of `serve`, and the controller.

This floor builds engines, databases and blobs and hands them to the rooms below; it computes
nothing itself.
"""
