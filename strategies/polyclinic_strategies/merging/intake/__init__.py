"""What is checked of a contribution before it counts."""
