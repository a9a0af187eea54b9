"""Measured comparisons; see docs/benchmarks.md."""
