"""Keys, kits, and the reasons why a hospital is turned away."""
