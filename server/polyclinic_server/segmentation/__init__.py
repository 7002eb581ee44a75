"""The segmentation service of the deformation proxy."""
