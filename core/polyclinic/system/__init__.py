"""Atomic file writes, child processes, exit codes, installed plugins."""
