"""Runs at the coordinator, from the settings to the report."""
