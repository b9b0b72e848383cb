"""Pure mathematics: paired tests, intervals and sample sizes, in Python's own floats.

No input or output, no model, no version. A wrong argument is the caller's mistake: ValueError.
"""
