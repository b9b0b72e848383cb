"""The fast path: rows as one flat stream, with gradients written by hand."""
