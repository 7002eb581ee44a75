"""Arithmetic with task vectors: exact sums, streams from disk, linear algebra."""
