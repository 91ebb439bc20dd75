"""The embedded machines: sounds, faults, and the data set made of them."""
