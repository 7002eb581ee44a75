"""The port that faces hospitals, and Flower's SuperLink behind it."""
