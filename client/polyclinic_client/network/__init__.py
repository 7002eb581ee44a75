"""The way to a coordinator: its address, its certificate, proxies, and who each side is."""
