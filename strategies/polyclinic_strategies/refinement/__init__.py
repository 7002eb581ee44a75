"""A refined model for every hospital from the distribution of its features, Kitrungrotsakul et al.

Nobody retrains when a hospital joins, updates or leaves.
"""

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
    distances=f"{PACKAGE}.report.state:find_distances",
    commands=f"{PACKAGE}.commands:app",
)
