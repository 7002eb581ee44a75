"""A federation in one process, for research and notebooks.

The strategies and the hospitals' code are the real ones; there are no sockets and no processes.
"""
