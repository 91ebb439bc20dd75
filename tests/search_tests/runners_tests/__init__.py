"""Trials in this process and on Ray."""
