"""Training: preflight, LoRA fine-tuning that survives `kill -9`, loss curve, golden probes.

Takes records as messages and a `TrainSettings`; knows nothing of projects, databases or money.
torch, transformers, trl and peft are imported when a run starts, not when this package is.
"""

import os

# TRL warns at every import of the objectives it calls experimental; the pins answer for them.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
