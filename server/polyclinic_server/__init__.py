"""The coordinator: its processes and its I/O."""
