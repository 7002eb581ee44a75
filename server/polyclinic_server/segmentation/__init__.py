"""Segmentation service of the deformation proxy."""
