"""Messages between a service, its runs and the commands, on one machine.

`make proto` generates two of these modules.
"""
