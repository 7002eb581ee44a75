"""A statistic of another package that is not what one must be: one error, which names it."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from polyclinic.config.release import Release
from polyclinic.describing.statistics import describe, measure_distance, statistic_named, statistics
from polyclinic.errors import ConfigError, StatisticFailed, StatisticInvalid, shareable_text
from tests.plugins import Installer

CLASS = """
import torch


class Toy:
    needs_network = False

    def measure(self, image, network):
        return {measured}

    def distance(self, one, other):
        return {measured}
"""
Install = Callable[..., None]


@pytest.fixture
def install(installer: Installer) -> Install:
    def toy(code: str, value: str = "polyclinic_toy_statistic:Toy") -> None:
        offers = {"polyclinic.statistics": {"toy": value}}
        installer.install(
            "polyclinic-toy-statistic", "1.0", offers, {"polyclinic_toy_statistic.py": code}
        )

    return toy


def describe_toy() -> torch.Tensor:
    images = [torch.full((1, 2, 2, 1), float(number)) for number in (1, 2, 3)]
    return describe(["toy"], images, range(3), nn.Identity(), Release())["toy"]


@pytest.mark.parametrize(
    ("measured", "came"),
    [
        ("1.0", "float"),
        ("[0.5]", "list"),
        ("None", "None"),
        ("image.numpy().mean()", "float32"),
        ("image.mean()", "float32 and of shape ()"),
        ("image[:, 0]", "float32 and of shape (1, 2, 1)"),
        ("image.mean().reshape(1).long()", "int64 and of shape (1,)"),
        ("image.flatten()[:0]", "empty"),
        ("image.flatten() * float('nan')", "NaN"),
        ("image.flatten().double() * 1e300", "NaN or Inf"),  # not in float32
        ("torch.ones(int(image.max()))", "2 numbers for one subject and 1 "),
    ],
)
def test_what_measure_returns_is_checked(install: Install, measured: str, came: str) -> None:
    install(CLASS.format(measured=measured))
    with pytest.raises(StatisticInvalid) as caught:
        describe_toy()
    text = str(caught.value)
    assert "statistic toy " in text and "polyclinic-toy-statistic" in text and came in text
    assert "1-D floating-point" in text
    assert shareable_text(caught.value).endswith(text)


@pytest.mark.parametrize("kind", ["half", "bfloat16", "double"])
def test_every_floating_point_type_becomes_float32(install: Install, kind: str) -> None:
    install(CLASS.format(measured=f"0.25 * image.flatten().{kind}() / image.max()"))
    assert torch.equal(describe_toy(), torch.full((4,), 0.25))


@pytest.mark.parametrize("returned", ["None", "float('nan')", "math.inf", "-0.5", "one", "'far'"])
def test_what_distance_returns_is_checked(install: Install, returned: str) -> None:
    install("import math\n" + CLASS.format(measured=returned))
    with pytest.raises(StatisticInvalid, match=r"statistic toy .*`distance`.*at least 0"):
        measure_distance("toy", torch.zeros(3), torch.ones(3))


@pytest.mark.parametrize("returned", ["2", "torch.tensor(2.0)", "torch.tensor([2.0])"])
def test_a_number_is_a_distance_whatever_its_type(install: Install, returned: str) -> None:
    install(CLASS.format(measured=returned))
    assert measure_distance("toy", torch.zeros(3), torch.ones(3)) == 2.0


@pytest.mark.parametrize(
    ("code", "value", "problem"),
    [
        (CLASS, "polyclinic_toy_statistik:Toy", "No module named 'polyclinic_toy_statistik'"),
        (CLASS, "polyclinic_toy_statistic:Toi", "has no attribute 'Toi'"),
        ("import nothing_of_this_name\n", "polyclinic_toy_statistic:Toy", "nothing_of_this_name"),
        ("class Toy:\n    def __init__(self, n): ...\n", "polyclinic_toy_statistic:Toy", "'n'"),
        (CLASS.replace("needs_network = False", "..."), "polyclinic_toy_statistic:Toy", "needs_n"),
        (CLASS.replace("def measure", "def measures"), "polyclinic_toy_statistic:Toy", "measure"),
        (CLASS.replace("def distance", "def near"), "polyclinic_toy_statistic:Toy", "distance"),
    ],
)
def test_a_class_that_cannot_be_made_concerns_who_names_it(
    install: Install, code: str, value: str, problem: str
) -> None:
    install(code.replace("{measured}", "0.0"), value)
    assert not statistic_named("histogram").needs_network
    for load in (statistics, lambda: statistic_named("toy")):
        with pytest.raises(StatisticInvalid) as caught:
            load()
        text = str(caught.value)
        assert "statistic toy of the package polyclinic-toy-statistic" in text and problem in text
        assert isinstance(caught.value, ConfigError) and "install it again" in text


def test_an_exception_is_chained_and_its_line_is_told_but_not_its_text(install: Install) -> None:
    install(CLASS.format(measured="torch.ones(2) + torch.ones(3)"))
    for call in (describe_toy, lambda: measure_distance("toy", torch.zeros(3), torch.ones(3))):
        with pytest.raises(StatisticFailed) as caught:
            call()
        line = 9 if call is describe_toy else 12
        assert f"RuntimeError at polyclinic_toy_statistic.py, line {line}." in str(caught.value)
        assert "size of tensor" in str(caught.value.__cause__)
        assert "size of tensor" not in str(caught.value)


def test_a_wrong_signature_is_told(install: Install) -> None:
    install(CLASS.format(measured="0").replace("image, network", "image"))
    with pytest.raises(StatisticFailed, match=r"toy.*`measure` with TypeError"):
        describe_toy()


def test_an_error_of_ours_passes(install: Install) -> None:
    code = CLASS.format(measured="fail()")
    install(
        "from polyclinic.errors import ConfigError\ndef fail(): raise ConfigError('x')\n" + code
    )
    with pytest.raises(ConfigError, match=r"^x$"):
        describe_toy()
    assert math.isfinite(measure_distance("histogram", torch.zeros(32), torch.ones(32)))
