"""What is changed in a sample, or in its features, while a network trains."""
