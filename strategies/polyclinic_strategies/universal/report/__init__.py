"""The universal model's part of a report, and the report of masked image modelling."""
