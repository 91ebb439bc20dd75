"""Phases, the training step, the trainer that repeats it, seeds and checkpoints."""
