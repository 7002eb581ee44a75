"""Encoders of hospitals as teachers, and how much each of them counts."""
