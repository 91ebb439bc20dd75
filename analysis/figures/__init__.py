"""Pictures, one idea a module: each function takes frames or arrays and returns a matplotlib Figure."""
