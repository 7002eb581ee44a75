"""A federation in one process, for research and notebooks: real strategies, real hospitals' code, no sockets."""
