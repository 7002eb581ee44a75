"""What leaves the hospital: one door, and the journal that is written before anything passes it."""
