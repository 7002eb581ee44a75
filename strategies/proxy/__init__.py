"""The deformation proxy: a hospital sends a warped volume, has it segmented elsewhere, and unwarps the answer."""
