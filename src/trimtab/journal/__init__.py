"""The log of answered requests: who asked, who answered, how long it took and what it cost.

Prompts and answers are content and never come here.
"""
