"""Models that answer: loading, batches, sampling, scoring, and the process that does it."""
