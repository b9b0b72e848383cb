"""What ends a run before its last step: limits, signals, divergence, a step that stalls."""
