"""Deformation proxy: a hospital has a warped volume segmented elsewhere, and unwarps the answer."""

from polyclinic.federation.method import Method

PACKAGE = "polyclinic_strategies.proxy"
METHOD = Method(
    name="proxy",
    pace="rounds",
    coordinator=f"{PACKAGE}.coordinator:ProxyCoordinator",
    hospital=f"{PACKAGE}.hospital:HOSPITAL",
    commands=f"{PACKAGE}.commands:app",
    settings=f"{PACKAGE}.settings:ProxyConfig",
)
