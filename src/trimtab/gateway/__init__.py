"""The inference API over HTTP: keys, one ledger level, generate, score, models.

Knows nothing of torch or of how a version is loaded: it is handed a way to an engine.
"""
