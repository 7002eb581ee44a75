"""Certificates, enrolled keys, and who is let in."""
