"""What of the benchmarks can be tested without the hardware that they measure."""
