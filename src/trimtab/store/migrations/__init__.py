"""The schema's history: one file a step, applied in order and never edited after a release.

A step imports nothing of Trimtab, so that it runs unchanged whatever becomes of the rooms.
"""
