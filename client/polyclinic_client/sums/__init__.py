"""A hospital's part in sums that nobody can take apart."""
