"""MONAI bundles: their configuration is read as plain values, and nothing of it is executed.

https://docs.monai.io/en/stable/mb_specification.html
"""
