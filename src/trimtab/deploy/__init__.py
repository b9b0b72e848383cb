"""From an adapter on disk to a version that answers: package, verify, shadow, promote, roll back.

Knows models only through an `Engine` that is handed in, and writes deployments only through
`registry`; the gateway reads what it wrote.
"""
