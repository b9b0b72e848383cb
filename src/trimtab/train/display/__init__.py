"""What a run shows of itself: curves, the live page, samples, TensorBoard."""
