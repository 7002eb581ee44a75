"""Merging from disk, tensor by tensor, and the running sums of contributions."""
