"""Judging a detector without anomalies: clips held back from training, and pseudo-anomalies made of them."""
