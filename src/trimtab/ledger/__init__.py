"""What was reserved and spent, in integer nano-dollars.

At every commit, for every account: spent + held <= limit. Knows nothing of tokens' meaning or of
who asks.
"""
