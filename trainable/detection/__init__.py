"""A finished detector: saved, loaded and applied to recordings stretch by stretch."""
