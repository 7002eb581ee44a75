"""Evaluation of models that exist: hospitals score them on their own cases, and train nothing."""

from polyclinic.federation.method import Method

PACKAGE = "polyclinic_strategies.evaluation"
METHOD = Method(
    name="evaluation",
    pace="stages",
    trains=False,
    coordinator=f"{PACKAGE}.coordinator:EvaluationCoordinator",
    hospital=f"{PACKAGE}.hospital:HOSPITAL",
    events=f"{PACKAGE}.events:EVENTS",
    section=f"{PACKAGE}.report.section:make_section",
)
