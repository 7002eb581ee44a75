"""Synchronous rounds with Flower's own averaging strategies."""
