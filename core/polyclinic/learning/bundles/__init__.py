"""MONAI bundles: their networks, intensities and weights; and models written as bundles."""
