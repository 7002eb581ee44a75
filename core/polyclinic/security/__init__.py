"""Keys of hospitals, the kit of an enrolled hospital, and reasons for refusing admission."""
