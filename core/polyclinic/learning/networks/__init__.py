"""Networks that MONAI does not have or cannot fill with weights, and the bound of their size."""
