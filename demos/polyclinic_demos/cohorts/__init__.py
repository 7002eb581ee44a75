"""The demo hospitals, written to disk as real ones would have them."""
