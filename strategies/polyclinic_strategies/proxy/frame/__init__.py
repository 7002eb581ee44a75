"""Canonical frame: reference brain, registration, intensities, and the way back."""
