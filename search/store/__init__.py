"""Durable state: study, run folder and their recovery, manifest, checkpoints.

May import search.engine, search.options, spaces, trainable and optuna.
"""
