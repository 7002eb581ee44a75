"""Training, evaluation, preparation, networks and model files."""
