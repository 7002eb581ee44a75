"""Hospitals fine-tune whenever they like; the coordinator merges their task vectors as they arrive.

Tian et al. 2024, https://arxiv.org/abs/2408.13038.
"""

from polyclinic.federation.method import Method

PACKAGE = "polyclinic_strategies.merging"
METHOD = Method(
    name="merging",
    pace="arrivals",
    coordinator=f"{PACKAGE}.coordinator:MergingCoordinator",
    hospital=f"{PACKAGE}.hospital:HOSPITAL",
    events=f"{PACKAGE}.events:EVENTS",
    section=f"{PACKAGE}.report.section:make_section",
    commands=f"{PACKAGE}.commands:app",
    sums=True,
)
