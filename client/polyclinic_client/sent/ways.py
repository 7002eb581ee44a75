"""By which way a worker's answers leave; the client tells the ClientApp in its node's settings."""

LEAVES = "leaves"  # key of the settings
BY_LINE = "by line"  # the hospital's own line: its door writes the journal
NOT_AT_ALL = "not at all"  # a simulation in one process
# without the key, Flower's own SuperNode carries the answers away
