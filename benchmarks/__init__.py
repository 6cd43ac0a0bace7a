"""Measures this server beside its peers, for real, in one run on one machine. Start with `python -m benchmarks`."""
