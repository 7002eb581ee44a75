"""The hospital's connection to its coordinator, and the processes behind it."""
