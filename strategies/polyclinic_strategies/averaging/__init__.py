"""Synchronous rounds with Flower's own averaging strategies."""

from polyclinic.federation.method import Method

PACKAGE = "polyclinic_strategies.averaging"
METHOD = Method(
    name="averaging",
    pace="rounds",
    coordinator=f"{PACKAGE}.coordinator:AveragingCoordinator",
    hospital="polyclinic.federation.hospital:HOSPITAL",
    hospital_commands=f"{PACKAGE}.hospital_commands:app",
    sums=True,
    patients=True,
)
