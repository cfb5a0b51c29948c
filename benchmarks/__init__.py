"""Timings and comparisons, by one runner: ``python -m benchmarks --suite NAME``; see docs/benchmarks.md."""
