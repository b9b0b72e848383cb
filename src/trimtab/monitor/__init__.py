"""What live traffic says: latency and availability against the SLO.

Reads the request log; decides nothing and changes nothing.
"""
