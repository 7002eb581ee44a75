"""The command line `polyclinic-client`."""
