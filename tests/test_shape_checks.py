"""The annotations of shapes are checked while tests run."""

from importlib import import_module

import pytest
import torch
from jaxtyping import TypeCheckError

from polyclinic.imaging.foreground import foreground
from polyclinic_strategies.merging.rules.krum import krum_scores
from tests.shapes import shaped_modules


@pytest.mark.parametrize("name", shaped_modules())
def test_every_module_with_shapes_is_loaded_by_the_checker(name: str) -> None:
    specification = import_module(name).__spec__
    assert specification is not None
    assert type(specification.loader).__module__ == "jaxtyping._import_hook"


def test_modules_are_found_in_several_packages() -> None:
    tops = {name.split(".", maxsplit=1)[0] for name in shaped_modules()}
    assert {"polyclinic", "polyclinic_strategies", "benchmarks"} <= tops


def test_a_wrong_type_or_shape_is_an_error() -> None:
    image = torch.ones(1, 4, 4, 4)
    assert foreground(image).shape == (4, 4, 4)
    with pytest.raises(TypeCheckError):
        foreground(image.long())
    with pytest.raises(TypeCheckError):
        krum_scores(torch.zeros(5, 4, dtype=torch.float64), 1)
