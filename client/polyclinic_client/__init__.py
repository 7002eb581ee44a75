"""The hospital: its processes and its I/O."""
