"""The durable store of contributions: ledger, journal, verification, refusals."""
