"""Which method does an order's work at a hospital, and what must be installed for it."""

from dataclasses import replace
from pathlib import Path

import pytest

from polyclinic.config.compose import load_config
from polyclinic.config.jobs import job_settings, load_job
from polyclinic.errors import ConfigError, MethodMissing, PluginMismatch
from polyclinic.federation.assignment import Assignment
from polyclinic.federation.hospital import HOSPITAL, DescribingHospital
from polyclinic.federation.jobs import build_network, make_order, needed_plugins, statistics_in
from polyclinic.federation.records import Order
from polyclinic.federation.run_folder import RunFolder
from polyclinic_client.site.dispatch import (
    check_job_packages,
    check_packages,
    describing_hospital_of,
    hospital_of,
)
from polyclinic_client.site.site import Site
from tests.client.site.test_site import data, order  # noqa: F401
from tests.plugins import MODEL, Installer

TOY = """
from polyclinic.federation.hospital import CommonTask
from polyclinic.federation.method import Method


class ToyHospital(CommonTask):
    def prepare(self, site, order):
        site.kept["greetings"] = site.kept.get("greetings", 0) + 1
        return f"greeted {site.kept['greetings']} times"


HOSPITAL = ToyHospital()
METHOD = Method(name="toy", pace="rounds", coordinator="toy:None", hospital="toy:HOSPITAL")
"""
STRATEGY = "_target_: polyclinic_strategies.averaging.strategy.Averaging\ntitle: Toy\n"
STRATEGY += "personal: none\naggregation: {_target_: flwr.serverapp.strategy.FedAvg}\n"


def install(installer: Installer, version: str = "0.3") -> None:
    offers = {"polyclinic.methods": {"toy": "toy:METHOD"}, "polyclinic.conf": {"toy": "toy_conf"}}
    files = {
        "toy.py": TOY,
        "toy_conf/strategy/toy.yaml": STRATEGY,
        "toy_conf/model/toy_unet.yaml": MODEL,
    }
    installer.install("polyclinic-toy", version, offers, files)


def test_each_installed_method_brings_its_own_part() -> None:
    asked, _ = order()
    assert hospital_of(asked) is HOSPITAL
    found = {
        name: hospital_of(replace(asked, method=name))
        for name in ("averaging", "merging", "refinement", "universal", "proxy")
    }
    assert found["averaging"] is HOSPITAL and len(set(map(type, found.values()))) == 5
    able = {name for name, part in found.items() if isinstance(part, DescribingHospital)}
    assert able == {"refinement"}
    with pytest.raises(ConfigError, match="averaging"):
        describing_hospital_of(replace(asked, method="averaging"))


def test_an_unknown_method_is_refused_by_name(data: Path, tmp_path: Path) -> None:  # noqa: F811
    asked = replace(order()[0], method="magic", plugins={"magic-package": "2.1"})
    refusal = Site("a", data, tmp_path).greet(asked).refusal
    assert "magic" in refusal and "magic-package 2.1" in refusal and "install" in refusal
    with pytest.raises(MethodMissing):
        check_packages(asked)


def test_the_part_of_an_installed_package_is_asked(
    installer: Installer,
    data: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    install(installer)
    site = Site("a", data, tmp_path)
    asked = replace(order()[0], method="toy", plugins={"polyclinic-toy": "0.3"})
    assert [site.greet(asked).task for _ in range(2)] == ["greeted 1 times", "greeted 2 times"]


@pytest.mark.parametrize("version", [None, "0.4"])
def test_a_package_that_is_missing_or_of_another_version_is_refused_by_name(
    installer: Installer, version: str | None
) -> None:
    if version is not None:
        install(installer, version)
    asked = replace(order()[0], plugins={"polyclinic-toy": "0.3"})
    with pytest.raises(PluginMismatch) as caught:
        check_packages(asked)
    assert "polyclinic-toy" in str(caught.value) and "0.3" in str(caught.value)
    assert (version or "not installed") in str(caught.value)


def test_a_job_that_takes_a_package_here_alone_is_refused(installer: Installer) -> None:
    install(installer)
    config = load_config(["model=toy_unet", "data=segmentation_2d"])
    names, settings = job_settings(config)
    asked, job = replace(order()[0], names=names), load_job(names, settings)
    check_job_packages(replace(asked, plugins={"polyclinic-toy": "0.3"}), job)
    with pytest.raises(PluginMismatch, match="polyclinic-toy"):
        check_job_packages(asked, job)


def make(tmp_path: Path, *overrides: str) -> Order:
    config = load_config([*overrides, "data=segmentation_2d"])
    return make_order(RunFolder(tmp_path / "run"), config, build_network(config))


def test_an_order_names_its_method_and_the_packages_that_it_needs(
    installer: Installer, tmp_path: Path
) -> None:
    install(installer)
    plain = make(tmp_path, "strategy=averaging/fedavg", "model=unet_2d")
    assert (plain.method, plain.plugins) == ("averaging", {})
    by_method = make(tmp_path, "strategy=toy", "model=unet_2d")
    assert (by_method.method, by_method.plugins) == ("toy", {"polyclinic-toy": "0.3"})
    by_model = make(tmp_path, "strategy=averaging/fedavg", "model=toy_unet")
    assert (by_model.method, by_model.plugins) == ("averaging", {"polyclinic-toy": "0.3"})


def test_statistics_of_packages_count_as_needed(installer: Installer) -> None:
    offers = {"polyclinic.statistics": {"toy_spread": "toy_statistics:Spread"}}
    installer.install("toy-statistics", "7", offers, {"toy_statistics.py": ""})
    config = load_config(["strategy=refinement", "strategy.statistics=[histogram,toy_spread]"])
    named = list(statistics_in(config.strategy))
    assert named == ["histogram", "toy_spread"]
    names, settings = job_settings(config)
    job = load_job(names, settings)
    assert needed_plugins(job, names, "refinement", named) == {"toy-statistics": "7"}
    assert needed_plugins(job, names, "refinement", ["histogram", "nowhere"]) == {}


def test_an_assignment_of_an_earlier_version_is_read() -> None:
    assignment = Assignment(order()[0], "a" * 64, "t", "b" * 64, ("histogram",))
    values = assignment.to_json()
    assert Assignment.from_json(values) == assignment
    del values["order"]["method"], values["order"]["plugins"]
    old = Assignment.from_json(values)
    assert (old.order.method, old.order.plugins) == ("", {}) and hospital_of(old.order) is HOSPITAL
