"""The command line `polyclinic-server`."""
