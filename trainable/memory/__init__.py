"""Peak memory: predicted from the training step itself, planned for, capped, and recovered from."""
