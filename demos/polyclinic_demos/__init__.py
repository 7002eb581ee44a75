"""Simulated hospitals, and demos that run on one machine."""
