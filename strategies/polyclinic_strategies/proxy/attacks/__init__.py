"""Attacks that try to recognize people by their proxies, and how well they do."""
