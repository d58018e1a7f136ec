"""The contenders of `scripts/benchmark.py` and what is said of them; they need the clone."""
