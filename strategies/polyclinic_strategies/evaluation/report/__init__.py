"""An evaluation in reports: its part of the page, and the card of each model."""
