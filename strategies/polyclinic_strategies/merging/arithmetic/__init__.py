"""Arithmetic with task vectors of one tensor: fixed-point sums, pieces, linear algebra."""
