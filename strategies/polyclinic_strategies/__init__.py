"""The methods: pure functions, and one thin Flower adapter each, called strategy.py."""
