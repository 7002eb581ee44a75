"""Which hospital is asked when, and from which model it starts."""
