"""The hospital's page: what runs here, what left, what waits for a decision; on this machine."""
