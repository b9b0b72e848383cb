"""The log of answered requests: who asked, who answered, how long it took and what it cost.

Prompts and answers are content: they are kept apart, and where the project says so alone.
"""
