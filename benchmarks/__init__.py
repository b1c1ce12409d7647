"""Speed and memory, each beside its floor: ``python -m benchmarks``."""
