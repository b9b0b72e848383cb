"""Texts as vectors: the encoder. torch is allowed here, transformers is not needed.

Knows nothing of who asks or what it costs.
"""
