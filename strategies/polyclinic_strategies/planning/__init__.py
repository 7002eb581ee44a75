"""A plan of training from the hospitals' fingerprints, by nnU-Net's published rules.

Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z. Nobody trains: hospitals tell how
large their images and voxels are, and the coordinator writes `plan.yaml`.
"""

from polyclinic.federation.method import Method

PACKAGE = "polyclinic_strategies.planning"
METHOD = Method(
    name="planning",
    pace="stages",
    trains=False,
    coordinator=f"{PACKAGE}.coordinator:PlanningCoordinator",
    hospital=f"{PACKAGE}.hospital:HOSPITAL",
    events=f"{PACKAGE}.events:EVENTS",
    commands=f"{PACKAGE}.commands:app",
)
