"""Statistics of a hospital's images, and distances between hospitals; one file for each."""
