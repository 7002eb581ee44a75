"""Samples of prepared cases, drawn anew for every step of a training."""
