"""The coordinator as a service: it holds the hospitals' port, and runs live beside each other."""
