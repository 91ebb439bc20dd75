"""Which trial is next, and whether one goes on or stops: conductor, ASHA, sampler, feasibility, standing.

Knows neither Ray nor a disk; may import spaces, trainable and optuna.
"""
