"""Planning: which ways of training fit a machine, with memory, time and price foretold.

Knows arithmetic and no library that trains: measured rates are handed in.
"""
