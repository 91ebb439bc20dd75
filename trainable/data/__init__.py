"""From files (or the embedded machines) to packed log-mel features in memory, split without leaks."""
