"""Durable state: study, run folder and their recovery, manifest, checkpoints, warm start.

May import search.engine, spaces, trainable and optuna.
"""
