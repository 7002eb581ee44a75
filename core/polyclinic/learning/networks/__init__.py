"""Networks that MONAI does not have, or not with weights that can be installed."""
