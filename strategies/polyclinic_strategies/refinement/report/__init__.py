"""Refinement's part of a report."""
