"""Durable store of contributions: ledger, journal, verification, refusals."""
