"""The general path: whatever transformers can load, one version a batch."""
