"""Sources to records to a dataset: read, normalise, clean, deduplicate, split, check for leakage.

Every record that does not come through is listed with its reason. Knows nothing of models.
"""
