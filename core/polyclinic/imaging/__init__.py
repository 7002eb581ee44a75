"""Medical images: volumes, headers, grids, data sets, pictures, deformations."""
