"""Training that protects each patient: what it may tell, and what it has told so far."""
