"""Certificates, enrolled keys, and admission of hospitals."""
