"""Listeners for starts, reports and endings: progress, terminal, TensorBoard, MLflow, W&B, Prometheus.

May import search.engine and search.options.
"""
