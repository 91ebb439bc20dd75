"""Listeners for starts, reports and endings: progress, terminal, TensorBoard, MLflow, Prometheus.

May import search.engine.
"""
