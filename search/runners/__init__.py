"""Runs trials in this process or on Ray, with slots, faults and signals.

May import search.engine and search.store; only these modules and `search.listeners.prometheus` may import ray.
"""
