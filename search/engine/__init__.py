"""Which trial is next, and whether one continues or stops: conductor, ASHA, sampler, feasibility, standing.

Uses neither Ray nor the disk; may import spaces, trainable and optuna.
"""
