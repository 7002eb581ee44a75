"""Merging whose contributions come as secure sums."""
