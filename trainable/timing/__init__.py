"""Seconds of a trial before it runs: its work, counted on meta tensors, and how fast a device does it."""
