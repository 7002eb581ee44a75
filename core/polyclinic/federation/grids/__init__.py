"""Grids over Flower's: patient, counting, and passing everything on."""
