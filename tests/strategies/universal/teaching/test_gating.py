"""Who is believed, and on which images."""

import pytest
import torch
from torch.testing import assert_close

from polyclinic.learning.state_dict import StateDict
from polyclinic_strategies.universal.teaching.gating import gate_teachers, trust
from polyclinic_strategies.universal.teaching.teachers import COVARIANCE, MEAN, Teacher


def weights(seed: int) -> StateDict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "encoder.a": torch.randn(20, 30, generator=generator),
        "encoder.b": 1 + 0.1 * torch.randn(40, generator=generator),
    }


def moved(base: StateDict, share: float) -> StateDict:
    other = weights(99)
    return {name: tensor + share * (other[name] - tensor) for name, tensor in base.items()}


def test_a_fine_tuned_copy_is_trusted_and_a_stranger_is_not() -> None:
    base = weights(0)
    assert trust(base, base) == trust(moved(base, 0.2), base) == 1.0
    assert (
        trust(weights(1), base)
        == trust({name: -tensor for name, tensor in base.items()}, base)
        == 0.0
    )


def test_trust_falls_steadily_in_between() -> None:
    base = weights(0)
    values = [trust(moved(base, share), base) for share in (0.45, 0.5, 0.55, 0.6, 0.65)]
    assert values == sorted(values, reverse=True) and 0 < values[2] < 1


@pytest.mark.parametrize("on", [True, False])
def test_images_unlike_a_teachers_own_count_less(on: bool) -> None:
    one = Teacher("st-john", weights(0), {MEAN: torch.zeros(4), COVARIANCE: torch.eye(4)}, 50, "")
    rows = torch.stack([torch.zeros(4), torch.full((4,), 2.0), torch.full((4,), 100.0)])
    gate = gate_teachers([one], {"st-john": rows}, weights(0), on=on)["st-john"]
    if on:
        assert (
            float(gate.weights[0]) == 1.0
            and float(gate.weights[2]) < 1e-6
            and 0.1 < float(gate.weights[1]) < 0.5
        )
    else:
        assert_close(gate.weights, torch.ones(3))
    assert gate.trust == 1.0
