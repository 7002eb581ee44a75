"""Merging's part of a report."""
