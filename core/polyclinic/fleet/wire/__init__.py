"""Messages between coordinator and hospitals.

`make proto` generates two of these modules.
"""
