"""Messages between a client of the deformation proxy and its segmentation service.

`make proto` generates two of these modules.
"""
