"""Decides which trials run, where and when: command line, Optuna sampler, ASHA, runners, durable study, resume.

May import spaces, trainable, ray and optuna; nothing imports it.
"""
