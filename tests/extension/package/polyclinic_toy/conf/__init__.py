"""Settings of what this package adds."""
