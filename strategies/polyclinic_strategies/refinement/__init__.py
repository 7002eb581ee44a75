"""A model for every hospital from the distribution of its features, Kitrungrotsakul et al.; nobody retrains when somebody comes or goes."""

from polyclinic.federation.method import Method

PACKAGE = "polyclinic_strategies.refinement"
METHOD = Method(
    name="refinement",
    pace="arrivals",
    coordinator=f"{PACKAGE}.coordinator:RefinementCoordinator",
    hospital=f"{PACKAGE}.hospital:HOSPITAL",
    events=f"{PACKAGE}.events:EVENTS",
    results=f"{PACKAGE}.report.state:place_figures",
    section=f"{PACKAGE}.report.section:make_section",
    commands=f"{PACKAGE}.commands:app",
)
