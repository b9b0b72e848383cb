"""What exists: bases, datasets, model versions, reports, gates, deployments, and how they descend.

Knows nothing of how any of them is made. Functions take the connection of the caller's
transaction, so that one decision over several rooms is one commit.
"""
