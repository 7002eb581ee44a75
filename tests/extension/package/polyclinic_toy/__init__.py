"""A strategy from outside: in every round the coordinate-wise median of the hospitals' weights."""

from polyclinic.federation.method import Method

METHOD = Method(
    name="consensus",
    pace="rounds",
    coordinator="polyclinic_toy.coordinator:ConsensusCoordinator",
    hospital="polyclinic_toy.hospital:HOSPITAL",
    events="polyclinic_toy.events:EVENTS",
    section="polyclinic_toy.section:make_section",
    commands="polyclinic_toy.commands:app",
)
