"""The coordinator's page: hospitals and runs as they go on, and what may be done to them."""
