"""The universal model: hospitals with different tasks teach one encoder. Radwan et al. 2024, https://arxiv.org/abs/2407.14719."""

from polyclinic.federation.method import Method

PACKAGE = "polyclinic_strategies.universal"
METHOD = Method(
    name="universal",
    pace="stages",
    site_tasks=True,
    exports={".pt2": f"{PACKAGE}.networks.export:write_program"},
    coordinator=f"{PACKAGE}.coordinator:UniversalCoordinator",
    hospital=f"{PACKAGE}.hospital:HOSPITAL",
    events=f"{PACKAGE}.events:EVENTS",
    results=f"{PACKAGE}.report.state:place_figures",
    section=f"{PACKAGE}.report.section:make_section",
    commands=f"{PACKAGE}.commands:app",
    hospital_commands=f"{PACKAGE}.hospital_commands:app",
    settings=f"{PACKAGE}.settings:UniversalConfig",
)
