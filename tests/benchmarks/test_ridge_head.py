"""Closed-form heads, against pooled data, by hand, and bit for bit when hospitals join and leave.

Against pooled data, against paper, and bit for bit when hospitals come and go.
"""

from collections.abc import Sequence
from itertools import permutations

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor, nn
from torch.testing import assert_close

from benchmarks.closed_form_heads.exact_sum import ExactSum
from benchmarks.closed_form_heads.moments import HeadMoments, moments_of
from benchmarks.closed_form_heads.ridge_head import (
    AdditiveMoments,
    ridge_head,
    uncentred,
)
from polyclinic.errors import ConfigError, LedgerDamaged, NothingToWithdraw

FEATURES, CLASSES = 12, 4


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hospitals(count: int, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """Features of very different sizes, classes in random shares."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for number in range(count):
        cases = int(torch.randint(5, 40, (1,), generator=generator))
        labels = torch.multinomial(
            torch.rand(CLASSES, generator=generator), cases, replacement=True, generator=generator
        )
        features = (
            torch.randn(cases, FEATURES, generator=generator, dtype=torch.float64)
            + labels[:, None] * 0.3
        )
        made[f"site{number}"] = features * 10.0 ** (number % 4 - 2), labels
    return made


def moments_by_site(count: int = 7, seed: int = 0) -> dict[str, HeadMoments]:
    return {site: moments_of(*data, CLASSES) for site, data in hospitals(count, seed).items()}


def summed(moments: dict[str, HeadMoments], sites: Sequence[str] | None = None) -> AdditiveMoments:
    total = AdditiveMoments(FEATURES, CLASSES)
    for site in moments if sites is None else sites:
        total.add(site, moments[site])
    return total


def assert_same(one: HeadMoments, other: HeadMoments) -> None:
    assert torch.equal(one.gram, other.gram)
    assert torch.equal(one.cross, other.cross)


@pytest.mark.parametrize("seed", range(5))
def test_the_head_is_that_of_the_pooled_features_whatever_the_partition(seed: int) -> None:
    data = hospitals(7, seed)
    features, labels = (torch.cat(parts) for parts in zip(*data.values(), strict=True))
    pooled = nn.functional.pad(features, (0, 1), value=1.0)
    expected = torch.linalg.solve(
        pooled.T @ pooled + 0.5 * torch.eye(FEATURES + 1),
        pooled.T @ nn.functional.one_hot(labels, CLASSES).double(),
    )
    shuffled = torch.randperm(
        len(labels), generator=torch.Generator().manual_seed(seed)
    ).tensor_split(11)
    partitions = [
        list(data.values()),
        [(features[rows], labels[rows]) for rows in shuffled],
        [(features, labels)],
    ]
    for partition in partitions:
        moments = {str(number): moments_of(*part, CLASSES) for number, part in enumerate(partition)}
        total = summed(moments).total()
        weight, bias = ridge_head(total.gram, total.cross, 0.5)
        assert weight.dtype == torch.float64
        assert_close(weight, expected[:-1].T, rtol=0, atol=1e-9)
        assert_close(bias, expected[-1], rtol=0, atol=1e-9)


def test_the_head_after_a_join_is_the_head_from_scratch() -> None:
    moments = moments_by_site()
    early = summed(moments, list(moments)[:-1])
    early.total()
    early.add("site6", moments["site6"])
    scratch = summed(moments).total()
    assert_same(early.total(), scratch)
    floats = (
        sum(each.gram for each in moments.values()),
        sum(each.cross for each in moments.values()),
    )
    for one, other in zip(
        ridge_head(early.total().gram, early.total().cross, 1.0),
        ridge_head(*floats, 1.0),
        strict=True,
    ):
        assert_close(one, other, rtol=0, atol=1e-6)


def test_the_order_of_hospitals_changes_no_bit() -> None:
    moments = moments_by_site(4)
    totals = [summed(moments, order).total() for order in permutations(moments)]
    for each in totals[1:]:
        assert_same(each, totals[0])


def test_what_was_added_and_removed_leaves_no_trace() -> None:
    moments = moments_by_site()
    total, before = summed(moments, ["site0", "site1"]), summed(moments, ["site0", "site1"]).total()
    for site in ("site2", "site3", "site4"):
        total.add(site, moments[site])
    for site in ("site3", "site2", "site4"):
        total.remove(site, moments[site])
    assert total.sites == {"site0", "site1"}
    assert_same(total.total(), before)
    total.remove("site1", moments["site1"])
    total.add("site1", moments["site5"])  # an update
    assert_same(
        total.total(), summed({"site0": moments["site0"], "site1": moments["site5"]}).total()
    )


def test_nobody_is_counted_twice_or_taken_out_wrongly() -> None:
    moments = moments_by_site(3)
    total = summed(moments)
    before = total.total()
    with pytest.raises(ValueError, match="site0"):
        total.add("site0", moments["site0"])
    with pytest.raises(NothingToWithdraw, match="site9"):
        total.remove("site9", moments["site0"])
    with pytest.raises(LedgerDamaged, match="site0"):
        total.remove("site0", moments["site1"])
    assert_same(total.total(), before)
    with pytest.raises(ValueError, match="empty"):
        AdditiveMoments(FEATURES, CLASSES).total()
    with pytest.raises(ValueError, match="expected"):
        AdditiveMoments(FEATURES + 1, CLASSES).add("site0", moments["site0"])


@pytest.mark.parametrize("size", [1e-20, 1e-3, 1.0, 1e6, 1e14])
def test_a_value_is_kept_within_two_to_the_minus_53(size: float) -> None:
    vector = random(1000) * size
    sums = ExactSum(1000)
    sums.add("a", vector)
    assert_close(sums.total(), vector, rtol=2.0**-52, atol=2.0**-53)
    sums.add("b", random(1000, seed=1))
    sums.remove("a", vector)
    alone = ExactSum(1000)
    alone.add("b", random(1000, seed=1))
    assert torch.equal(sums.total(), alone.total())


def test_what_would_overflow_is_refused() -> None:
    sums, half = ExactSum(2), torch.tensor([1.0, -(2.0**50)]).double()
    sums.add("a", half)
    with pytest.raises(ConfigError, match=r"\bof b\b"):
        sums.add("b", half * 1.5)
    with pytest.raises(ConfigError, match="too large"):
        sums.add("b", half * 1e200)
    with pytest.raises(ValueError, match="NaN"):
        sums.add("b", half * float("inf"))
    with pytest.raises((ValueError, TypeCheckError)):
        sums.add("b", half.float())
    assert sums.sites == {"a"}
    assert torch.equal(sums.total(), half)
    sums.remove("a", half)
    sums.add("b", half * 1.5)  # the room that was taken is free again


def test_a_ridge_on_paper() -> None:
    """x = 1, 3 of class 0, 1: G = [[10, 4], [4, 2]], B = [[1, 3], [1, 1]].

    Without ridge the line through both.
    """
    moments = moments_of(torch.tensor([[1.0], [3.0]]).double(), torch.tensor([0, 1]), 2)
    weight, bias = ridge_head(moments.gram, moments.cross, 0.0)
    assert_close(weight, torch.tensor([[-0.5], [0.5]]).double())
    assert_close(bias, torch.tensor([1.5, -0.5]).double())
    # (G + I)^-1 = [[3, -4], [-4, 11]] / 17
    weight, bias = ridge_head(moments.gram, moments.cross, 1.0)
    assert_close(weight, torch.tensor([[-1.0], [5.0]]).double() / 17)
    assert_close(bias, torch.tensor([7.0, -1.0]).double() / 17)


def test_a_centred_head_does_not_see_a_hospitals_shift() -> None:
    data, shift = hospitals(3), 5 * random(FEATURES, seed=9)
    total = AdditiveMoments(FEATURES, CLASSES)
    for site, (features, labels) in data.items():
        total.add(site, moments_of(features, labels, CLASSES).centred())
    head = ridge_head(total.total().gram, total.total().cross, 0.1)
    features, _ = data["site1"]
    (weight, bias), (same, shifted) = (
        uncentred(head, features.mean(0)),
        uncentred(head, (features + shift).mean(0)),
    )
    assert_close((features + shift) @ same.T + shifted, features @ weight.T + bias)


def test_a_head_that_cannot_be_determined_is_refused() -> None:
    moments = moments_of(random(3, FEATURES), torch.tensor([0, 1, 2]), CLASSES)
    with pytest.raises(ConfigError, match="Set a larger one"):
        ridge_head(moments.gram, moments.cross, 0.0)
    with pytest.raises(ValueError, match="at least 0"):
        ridge_head(moments.gram, moments.cross, -1.0)
    with pytest.raises((ValueError, TypeCheckError)):
        ridge_head(moments.gram[:-1, :-1], moments.cross, 1.0)
    with pytest.raises(ValueError, match="no example"):
        ridge_head(moments.gram * 0, moments.cross * 0, 1.0)
    weight, bias = ridge_head(moments.gram, moments.cross, 1.0)
    assert not weight[3].any()
    assert bias[3] == 0


def test_balanced_is_weighting_where_classes_scatter_alike() -> None:
    around = random(30, FEATURES)
    around = torch.cat([around, -around])
    counts = (1, 2, 5, 0)  # the same cloud so many times around each mean
    means = random(CLASSES, FEATURES, seed=1)
    features = torch.cat(
        [around + means[label] for label, count in enumerate(counts) for _ in range(count)]
    )
    labels = torch.cat([torch.full((60 * count,), label) for label, count in enumerate(counts)])
    moments = moments_of(features, labels, CLASSES)
    weighting = torch.tensor(
        [len(labels) / 3 / (60 * count) if count else 0.0 for count in counts]
    ).double()[labels]
    rows = nn.functional.pad(features, (0, 1), value=1.0)
    expected = torch.linalg.solve(
        rows.T @ (rows * weighting[:, None]) + torch.eye(FEATURES + 1),
        (rows * weighting[:, None]).T @ nn.functional.one_hot(labels, CLASSES).double(),
    )
    weight, bias = ridge_head(moments.gram, moments.cross, 1.0, balanced=True)
    assert_close(weight, expected[:-1].T)
    assert_close(bias, expected[-1])
