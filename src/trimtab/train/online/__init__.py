"""Learning from answers of the model's own: rollouts, rewards, advantages."""
