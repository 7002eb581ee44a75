"""The page about a trained deformation proxy."""
