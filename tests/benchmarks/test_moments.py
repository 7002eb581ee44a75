"""What leaves a hospital for closed-form heads, against sums on paper."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError
from monai.networks.nets import DenseNet
from torch import Tensor, nn
from torch.testing import assert_close

from benchmarks.closed_form_heads.moments import (
    HeadMoments,
    from_state,
    head_features,
    last_linear,
    moments_of,
    to_state,
)
from polyclinic.config.schemas import DataConfig
from polyclinic.errors import ConfigError, LabelInvalid, ModelInvalid, TooFewSubjects
from polyclinic.imaging.datasets import Case
from polyclinic.learning.networks.efficientnet import EfficientNetLite0
from polyclinic.learning.preparation import Sample
from polyclinic.store.contribution import Contribution, TensorFile, write_contribution
from polyclinic.store.refusals import ContributionDamaged
from polyclinic.store.requirements import Requirements, check_contribution

LABELS = ("eosinophil", "lymphocyte", "monocyte")
DATA = DataConfig("classification", 3, LABELS, "LPS", None, (32, 32), 1, 1.0, (), ())


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def samples(classes: list[int | None], *, slices: int = 1) -> list[Sample]:
    pictures = random(len(classes), 3, 32, 32, slices).float()
    cases = [
        Case(f"{number}", (Path(f"{number}.png"),), label, "training")
        for number, label in enumerate(classes)
    ]
    return [
        Sample(case, picture, case.label, torch.arange(slices))
        for case, picture in zip(cases, pictures, strict=True)
    ]


def test_two_features_on_paper() -> None:
    moments = moments_of(
        torch.tensor([[1.0, 2.0], [3.0, 0.0], [5.0, 5.0]]).double(), torch.tensor([0, 0, 2]), 3
    )
    assert moments.gram.tolist() == [[35.0, 27.0, 9.0], [27.0, 29.0, 7.0], [9.0, 7.0, 3.0]]
    assert moments.cross.tolist() == [[4.0, 0.0, 5.0], [2.0, 0.0, 5.0], [2.0, 0.0, 1.0]]
    assert moments.counts.tolist() == [2.0, 0.0, 1.0]
    assert moments.means.tolist() == [[2.0, 1.0], [0.0, 0.0], [5.0, 5.0]]
    assert moments.scatter.tolist() == [[2.0, -2.0], [-2.0, 2.0]]


def test_the_scatter_is_the_sum_of_covariances() -> None:
    features, labels = random(60, 7) + 3, torch.arange(60) % 3
    parts = [torch.cov(features[labels == label].T, correction=0) * 20 for label in range(3)]
    assert_close(moments_of(features, labels, 3).scatter, sum(parts), rtol=0, atol=1e-11)


def test_centred_moments_are_those_of_centred_features() -> None:
    features, labels = random(60, 7) + 3, torch.arange(60) % 3
    moments = moments_of(features, labels, 4)
    assert_close(moments.mean, features.mean(0))
    expected, centred = moments_of(features - features.mean(0), labels, 4), moments.centred()
    assert_close(centred.gram, expected.gram, rtol=0, atol=1e-11)
    assert_close(centred.cross, expected.cross, rtol=0, atol=1e-11)
    assert torch.equal(centred.gram, centred.gram.T)
    assert torch.equal(centred.counts, moments.counts)


def test_what_is_told_of_too_few_is_nothing() -> None:
    features, labels = random(10, 4), torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
    told = moments_of(features, labels, 3, min_examples=3)
    expected = moments_of(features[labels != 1], labels[labels != 1], 3)
    assert torch.equal(told.gram, expected.gram)
    assert torch.equal(told.cross, expected.cross)
    assert told.counts.tolist() == [4.0, 0.0, 4.0]
    with pytest.raises(TooFewSubjects, match=r"has 4 subjects.*at least 5"):
        moments_of(features, labels, 3, min_examples=5)
    with pytest.raises(TooFewSubjects):
        moments_of(features[:0], labels[:0], 3)


def test_shapes_that_do_not_belong_together() -> None:
    ill_shaped = (ValueError, TypeCheckError)  # whoever sees it first
    with pytest.raises(ill_shaped):
        moments_of(random(3, 2), torch.tensor([0, 1]), 2)
    with pytest.raises(ill_shaped):
        HeadMoments(random(3, 3), random(4, 2))
    with pytest.raises(ill_shaped):
        HeadMoments(random(3, 3).float(), random(3, 2).float())
    with pytest.raises(ValueError, match="classes -1"):
        moments_of(random(2, 2), torch.tensor([0, -1]), 2)
    with pytest.raises(ValueError, match=r"classes 0 \.\. 2"):
        moments_of(random(2, 2), torch.tensor([0, 2]), 2)


@pytest.mark.parametrize(
    "make",
    [lambda: EfficientNetLite0(3), lambda: DenseNet(2, 3, 3, 8, 4, (2, 2))],
    ids=["efficientnet", "densenet"],
)
def test_the_features_are_what_the_head_multiplies(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = make().train()
    nn.init.normal_(last_linear(network)[1].weight)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    cases = samples([0, 1, 2, 0], slices=2)
    features, labels = head_features(network, cases, DATA)
    assert labels.tolist() == [0, 1, 2, 0]
    assert network.training
    assert not last_linear(network)[1]._forward_hooks
    assert_close(network.state_dict(), state, rtol=0, atol=0)
    layer = last_linear(network.eval())[1]
    with torch.inference_mode():
        logits = torch.stack([network(case.image.permute(3, 0, 1, 2)).mean(0) for case in cases])
        assert_close(nn.functional.linear(features.float(), layer.weight, layer.bias), logits)
    moments = moments_of(features, labels, 3, min_examples=2)
    assert moments.counts.tolist() == [2.0, 0.0, 0.0]
    assert_close(moments.means[0], features[labels == 0].mean(0))


def test_a_network_whose_last_linear_layer_is_not_its_answer() -> None:
    cases = samples([0, 1])
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3), nn.Softmax(1))
    with pytest.raises(ModelInvalid, match="1 is not what Sequential answers with"):
        head_features(network, cases, DATA)
    assert not network[1]._forward_hooks
    with pytest.raises(ModelInvalid, match="no linear layer"):
        last_linear(nn.Conv2d(1, 1, 1))


def test_cases_that_have_no_class() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    with pytest.raises(LabelInvalid):
        head_features(network, samples([0, None]), DATA)
    with pytest.raises(LabelInvalid, match="has label 3"):
        head_features(network, samples([0, 3]), DATA)
    with pytest.raises(ConfigError, match="for classification"):
        head_features(network, samples([0]), replace(DATA, task="segmentation"))
    with pytest.raises(TooFewSubjects):
        moments_of(*head_features(network, [], DATA), 3)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e9])
def test_the_way_through_float32_keeps_48_bits(scale: float) -> None:
    moments = moments_of(random(50, 9) * scale, torch.arange(50) % 4, 5)
    state = to_state(moments)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    back = from_state(state)
    assert bool(((back.pack() - moments.pack()).abs() <= 2.0**-48 * moments.pack().abs()).all())
    assert torch.equal(back.counts, moments.counts)
    assert torch.equal(back.gram, back.gram.T)
    again = from_state(to_state(back))
    assert torch.equal(again.gram, back.gram)
    assert torch.equal(again.cross, back.cross)


def test_a_contribution_carries_them(tmp_path: Path) -> None:
    moments = moments_of(random(20, 6), torch.arange(20) % 2, 2)
    given, vector = (
        Contribution("a", "b" * 64, "cells", 20, {}, 1.0, "0.1.0"),
        {"weight": torch.ones(2)},
    )
    path = write_contribution(tmp_path, given, vector, to_state(moments))
    check_contribution(
        path, "a", Requirements("b" * 64, {"weight": (2,)}, "cells", None, 10**6, 10.0, {}, 0), []
    )
    with TensorFile(path) as file:
        back = from_state({name: file.statistic(name) for name in file.statistics})
    assert_close(back.pack(), moments.pack(), rtol=2.0**-48, atol=0)


def test_features_that_float32_cannot_hold() -> None:
    with pytest.raises(ModelInvalid, match="larger than float32 holds"):
        to_state(moments_of(random(5, 2) * 1e30, torch.zeros(5).long(), 1))
    with pytest.raises(ModelInvalid, match="NaN"):
        to_state(moments_of(random(5, 2) * float("nan"), torch.zeros(5).long(), 1))


@pytest.mark.parametrize(
    "changed",
    [
        {"head_moments/cross.low": None},
        {"head_moments/cross.high": torch.zeros(3)},
        {"head_moments/gram.high": torch.zeros(2), "head_moments/gram.low": torch.zeros(2)},
        {"head_moments/gram.high": torch.zeros(6)},
        {"head_moments/gram.high": torch.full((6,), float("nan"))},
        {"head_moments/cross.high": torch.tensor([[0.0, 0.0], [0.0, 0.0], [4.5, 1.5]])},
        {"head_moments/cross.high": torch.tensor([[0.0, 0.0], [0.0, 0.0], [7.0, -1.0]])},
        {"head_moments/cross.high": torch.zeros(1, 2), "head_moments/cross.low": torch.zeros(1, 2)},
    ],
)
def test_what_arrives_damaged_is_refused(changed: dict[str, Tensor | None]) -> None:
    state = {**to_state(moments_of(random(6, 2), torch.arange(6) % 2, 2)), **changed}
    with pytest.raises(ContributionDamaged, match=r"^a: .*head_moments/"):
        from_state({name: tensor for name, tensor in state.items() if tensor is not None}, "a")
