"""The hospital's data and state, and what it does when it is asked."""
