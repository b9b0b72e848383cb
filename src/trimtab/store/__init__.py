"""Where state lives: one database and one blob store a home.

The only room that opens either. Knows nothing of what the rows and files mean.
"""
