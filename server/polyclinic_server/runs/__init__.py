"""Runs: from the first setting to the report."""
