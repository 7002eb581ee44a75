"""Attacks on updates and models, for `benchmarks/attacks.py`."""
