"""Pictures, one topic per module: each function takes frames or arrays and returns a matplotlib Figure."""
