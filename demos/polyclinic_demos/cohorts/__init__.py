"""The demo hospitals, written to disk like real hospitals' data."""
