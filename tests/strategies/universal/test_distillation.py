"""Distillation: many teachers, one student, no labels."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from polyclinic.errors import ModelInvalid
from polyclinic.learning.state_dict import StateDict
from polyclinic_strategies.universal.distillation import Distillation, distil
from polyclinic_strategies.universal.networks.encoders import (
    ConvolutionalEncoder,
    VitEncoder,
    embed,
)
from polyclinic_strategies.universal.networks.network import UniversalNetwork
from polyclinic_strategies.universal.teaching.teachers import COVARIANCE, MEAN, Teacher

SETTINGS = Distillation(
    steps=24,
    batch_size=16,
    learning_rate=0.003,
    mim=0.0,
    old=0.0,
    views=1,
    hidden=32,
    gate=False,
    mask_size=8,
)


def make(seed: int, kind: str = "convolution") -> UniversalNetwork:
    torch.manual_seed(seed)
    if kind == "vit":
        return UniversalNetwork(VitEncoder(2, 3, (32, 32), 8, 16, 2, 2))
    return UniversalNetwork(ConvolutionalEncoder(2, 3, (32, 32), (8, 8, 16)))


def encoder(network: UniversalNetwork) -> StateDict:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def teacher(
    network: UniversalNetwork, site: str = "st-john", seen: Tensor | None = None
) -> Teacher:
    numbers = sum(network.encoder.widths)
    rows = (
        torch.randn(64, numbers)
        if seen is None
        else embed(network.maps(seen))[:, :numbers].detach()
    )
    centred = rows - rows.mean(0)
    statistics = {MEAN: rows.mean(0), COVARIANCE: centred.T @ centred / (len(rows) - 1)}
    return Teacher(
        site, encoder(network), statistics, 64, "classification, 2 classes, 1 channel, 2-D"
    )


@pytest.fixture(scope="module")
def images() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(48, 3, 4, 4, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")


@pytest.mark.parametrize("kind", ["convolution", "vit"])
def test_the_loss_falls_and_only_the_encoder_comes_back(images: Tensor, kind: str) -> None:
    student, one = make(0, kind), make(1, kind)
    before = encoder(student)
    distilled = distil(student, [teacher(one)], images, SETTINGS, 0)
    assert len(distilled.losses) == 24
    assert sum(distilled.losses[-5:]) < 0.8 * sum(distilled.losses[:5])
    assert set(distilled.state) == set(before) and all(
        name.startswith("encoder.") for name in distilled.state
    )
    assert any(not torch.equal(distilled.state[name], before[name]) for name in before)


def test_the_weight_of_the_old_features_holds_the_student_back(images: Tensor) -> None:
    def change(old: float) -> float:
        network = make(0)
        before = embed(network.maps(images)).detach()
        distil(network, [teacher(make(1))], images, replace(SETTINGS, steps=12, old=old), 0)
        return float((embed(network.maps(images)) - before).square().mean().detach())

    assert change(5.0) < change(0.0)


def test_same_seed_same_student_and_another_seed_another(images: Tensor) -> None:
    def state(seed: int) -> StateDict:
        return distil(
            make(0), [teacher_fixed], images, replace(SETTINGS, steps=4, mim=1.0), seed
        ).state

    teacher_fixed = teacher(make(1), seen=images)
    first, again, other = state(0), state(0), state(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_an_interrupted_distillation_goes_on_to_the_same_student(
    images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyclinic_strategies.universal.distillation.KEEP_EVERY", 2)
    one = teacher(make(1), seen=images)
    settings = replace(SETTINGS, steps=6, mim=1.0, old=0.5)

    def run(
        checkpoint: Path | None, on_step: Callable[[int, int, float], None] | None = None
    ) -> StateDict:
        return distil(
            make(0), [one], images, settings, 0, checkpoint=checkpoint, on_step=on_step
        ).state

    def stop(step: int, _steps: int, _loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    whole = run(None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "kept.pt", stop)
    told: list[int] = []
    resumed = run(tmp_path / "kept.pt", lambda step, _steps, _loss: told.append(step))
    assert told == [5, 6]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_statistics_of_another_size_are_refused(images: Tensor) -> None:
    one = teacher(make(1))
    wrong = replace(one, statistics={MEAN: torch.zeros(3), COVARIANCE: torch.eye(3)})
    with pytest.raises(ModelInvalid, match="st-john"):
        distil(make(0), [wrong], images, SETTINGS, 0)


def test_without_a_teacher_that_can_be_believed_nothing_changes(images: Tensor) -> None:
    student, stranger = make(0), teacher(make(1), "stranger")
    loud = teacher(make(0), "loud")
    loud = replace(loud, encoder={name: 1e38 * tensor for name, tensor in loud.encoder.items()})
    before = encoder(student)
    distilled = distil(student, [stranger, loud], images, replace(SETTINGS, gate=True), 0)
    assert distilled.trust == {"stranger": 0.0, "loud": 0.0} and distilled.losses == []
    assert all(torch.equal(distilled.state[name], before[name]) for name in before)


def test_a_hostile_teacher_changes_no_bit_of_the_student(images: Tensor) -> None:
    base = make(0)
    honest = teacher(base, "honest", images)
    honest = replace(
        honest, encoder={name: tensor * 1.05 for name, tensor in honest.encoder.items()}
    )
    settings = replace(SETTINGS, steps=3, gate=True)
    alone = distil(make(0), [honest], images, settings, 0)
    together = distil(make(0), [honest, teacher(make(1), "random")], images, settings, 0)
    assert alone.trust["honest"] == 1.0 and together.trust["random"] == 0.0
    assert all(torch.equal(alone.state[name], together.state[name]) for name in alone.state)


def test_a_student_starts_from_the_average_of_those_who_are_believed(images: Tensor) -> None:
    base = encoder(make(0))
    near = [teacher(make(0), "a"), teacher(make(0), "b"), teacher(make(1), "stranger")]
    near[0] = replace(near[0], encoder={name: 1.02 * tensor for name, tensor in base.items()})
    near[1] = replace(near[1], encoder={name: 1.06 * tensor for name, tensor in base.items()})
    state = distil(make(0), near, images, replace(SETTINGS, steps=0, gate=True), 0).state
    for name, tensor in base.items():
        assert_close(state[name], 1.04 * tensor)
    state = distil(
        make(0), near, images, replace(SETTINGS, steps=0, gate=True, start="before"), 0
    ).state
    assert all(torch.equal(state[name], tensor) for name, tensor in base.items())
