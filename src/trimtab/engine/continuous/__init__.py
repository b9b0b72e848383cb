"""The fast path: continuous batches over a paged cache whose known beginnings are shared."""
