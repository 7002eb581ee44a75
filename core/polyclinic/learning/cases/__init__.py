"""What is done once for a case: normalization, foreground voxels, the cache on the disk."""
