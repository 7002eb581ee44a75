"""A step of training: learning rate, precision, gradients, and what is kept of an optimizer."""
