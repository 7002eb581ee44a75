import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic_strategies.merging.arithmetic.layer import (
    Layer,
    Rule,
    is_normalization_statistic,
    seed_of,
)
from polyclinic_strategies.merging.arithmetic.pieces import PIECE, in_parallel
from polyclinic_strategies.merging.rules.dare import Dare, drop
from polyclinic_strategies.merging.rules.dare_ties import DareTies
from polyclinic_strategies.merging.rules.fisher import Fisher
from polyclinic_strategies.merging.rules.krum import Krum, krum_scores
from polyclinic_strategies.merging.rules.mean import Mean
from polyclinic_strategies.merging.rules.multi_krum import MultiKrum
from polyclinic_strategies.merging.rules.sum import Sum
from polyclinic_strategies.merging.rules.ties import Ties, smallest_kept
from polyclinic_strategies.merging.rules.trimmed_mean import TrimmedMean
from polyclinic_strategies.merging.rules.weighted_mean import WeightedMean

ORDER_FREE: list[Rule] = [Sum(), Mean(), WeightedMean(), Dare(drop=0.5), TrimmedMean(trim=0.4)]


def layer_of(
    vectors: Tensor | Sequence[Any], weights: Sequence[int] | None = None, **statistics: Tensor
) -> Layer:
    stacked = torch.as_tensor(vectors)
    sites = len(stacked)
    keys = tuple(f"site{number:03}" for number in range(sites))
    return Layer(
        "body.weight",
        torch.zeros(stacked.shape[1:]),
        tuple(stacked),
        tuple(weights or [1] * sites),
        keys,
        statistics,
    )


def permuted(layer: Layer, order: Sequence[int]) -> Layer:
    statistics: Mapping[str, Tensor] = {
        name: rows[list(order)] for name, rows in layer.statistics.items()
    }
    weights, keys = (tuple(row[site] for site in order) for row in (layer.weights, layer.keys))
    return Layer(
        layer.name,
        layer.base,
        tuple(layer.vectors[site] for site in order),
        weights,
        keys,
        statistics,
    )  # type: ignore[arg-type]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 1e-2


def test_sum_mean_and_weighted_mean_by_hand() -> None:
    layer = layer_of([[1.0, -2.0], [3.0, 6.0]], weights=[3, 1])
    assert_close(Sum(scale=0.5)(layer), torch.tensor([2.0, 2.0]), rtol=0, atol=0)
    assert_close(Mean()(layer), torch.tensor([2.0, 2.0]), rtol=0, atol=0)
    assert_close(WeightedMean(scale=2.0)(layer), torch.tensor([3.0, 0.0]), rtol=0, atol=0)


def test_the_sum_has_a_default_that_is_not_one() -> None:
    assert Sum().scale == 0.3


@pytest.mark.parametrize("rule", ORDER_FREE, ids=lambda rule: type(rule).__name__)
def test_the_order_of_sites_does_not_change_a_bit(rule: Rule) -> None:
    layer = layer_of(noise(5, 4, 7), weights=[3, 1, 4, 1, 5])
    for order in itertools.islice(itertools.permutations(range(5)), 0, 120, 7):
        assert torch.equal(rule(permuted(layer, order)), rule(layer))


@pytest.mark.parametrize(
    "rule", [Ties(), DareTies(drop=0.5), Fisher()], ids=lambda rule: type(rule).__name__
)
def test_the_order_of_sites_changes_rounding_at_most(rule: Rule) -> None:
    layer = layer_of(noise(5, 40, 7), fisher=noise(5, 40, 7, seed=1).abs())
    assert_close(rule(permuted(layer, [3, 1, 4, 0, 2])), rule(layer))


@pytest.mark.parametrize(
    "rule",
    [
        Mean(),
        WeightedMean(),
        Ties(keep=1.0),
        DareTies(drop=0.0),
        Fisher(),
        TrimmedMean(),
        Krum(),
        MultiKrum(),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_identical_sites_give_what_one_of_them_has(rule: Rule) -> None:
    one = noise(6, 5)
    vectors = one.expand(5, 6, 5).clone()
    layer = layer_of(
        vectors, fisher=vectors.abs(), distances=torch.zeros(5, 5, dtype=torch.float64)
    )
    assert_close(rule(layer), one, rtol=1e-6, atol=2**-41)


@pytest.mark.parametrize(
    "rule", [*ORDER_FREE, Ties(), DareTies()], ids=lambda rule: type(rule).__name__
)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (70_001,), (3, 5, 1, 2)])
def test_any_shape_is_kept_and_the_stack_is_left_alone(rule: Rule, shape: tuple[int, ...]) -> None:
    layer = layer_of(noise(3, *shape))
    before = layer.stacked()
    merged = rule(layer)
    assert merged.shape == shape
    assert merged.dtype == torch.float32
    assert torch.equal(layer.stacked(), before)


def test_large_tensors_merge_piece_by_piece_as_in_one() -> None:
    layer = layer_of(noise(3, 3 * PIECE + 12_345))
    for rule in (Mean(), TrimmedMean(trim=0.34), Fisher()):
        short = Layer(
            layer.name,
            layer.base[-12_345:],
            tuple(vector[-12_345:] for vector in layer.vectors),
            layer.weights,
            layer.keys,
        )
        assert torch.equal(rule(layer)[-12_345:], rule(short))


@pytest.mark.parametrize(
    "rule", [*ORDER_FREE, Ties(), DareTies(), Fisher()], ids=lambda rule: type(rule).__name__
)
def test_the_number_of_threads_does_not_change_a_bit(rule: Rule) -> None:
    layer, threads = (
        layer_of(noise(4, 5 * PIECE + 7), fisher=noise(4, 5 * PIECE + 7, seed=1).abs()),
        torch.get_num_threads(),
    )
    merged = []
    for number in (1, 3):
        torch.set_num_threads(number)
        try:
            merged.append(rule(layer))
        finally:
            torch.set_num_threads(threads)
    assert torch.equal(*merged)


def test_an_error_on_a_thread_arrives() -> None:
    with pytest.raises(ZeroDivisionError):
        in_parallel(lambda item: 1 // item, [1, 0])


def test_ties_drops_the_minority_direction() -> None:
    layer = layer_of([[2.0, -1.0, 0.5], [4.0, 3.0, -0.5]])
    assert_close(Ties(keep=1.0)(layer), torch.tensor([3.0, 3.0, 0.0]))


def test_ties_trims_each_site_before_the_election() -> None:
    layer = layer_of([[4.0, 1.0, -1.0, 0.0], [-3.0, 1.0, 8.0, 0.0]])
    assert_close(Ties(keep=0.25, scale=2.0)(layer), torch.tensor([8.0, 0.0, 16.0, 0.0]))


def test_ties_keeps_all_that_equal_the_smallest_kept() -> None:
    assert_close(
        Ties(keep=0.5)(layer_of([[1.0, -1.0, 1.0, 0.1]])), torch.tensor([1.0, -1.0, 1.0, 0.0])
    )


@pytest.mark.parametrize("keep", [0.001, 0.2, 0.5, 0.9999, 1.0])
def test_the_threshold_is_exact(keep: float) -> None:
    row = noise(10_001)
    count = max(1, int(keep * row.numel()))
    assert int((row.abs() >= smallest_kept(row, keep)).sum()) == count


def test_dare_without_dropping_is_the_sum() -> None:
    layer = layer_of(noise(4, 33))
    assert torch.equal(Dare(drop=0.0, scale=0.3)(layer), Sum(scale=0.3)(layer))


def test_dare_keeps_the_expectation_and_drops_the_share() -> None:
    merged = Dare(drop=0.75, scale=1.0)(layer_of(torch.ones(1, 100_000)))
    assert set(merged.unique().tolist()) == {0.0, 4.0}
    assert float(merged.mean()) == pytest.approx(1.0, abs=5 * math.sqrt(3 / 100_000))


def test_a_mask_depends_on_nobody_else() -> None:
    vectors = torch.ones(3, 1000).unbind()
    alone = Layer("w", vectors[0], vectors[:1], (1,), ("a",))
    all_three = Layer("w", vectors[0], vectors, (1, 1, 1), ("a", "b", "c"))
    others = Layer("w", vectors[0], vectors[1:], (1, 1), ("b", "c"))
    rule = Dare(drop=0.5, scale=1.0)
    assert torch.equal(rule(all_three) - rule(others), rule(alone))
    assert not torch.equal(Dare(drop=0.5, scale=1.0, seed=1)(alone), rule(alone))
    assert not torch.equal(rule(Layer("v", vectors[0], vectors[:1], (1,), ("a",))), rule(alone))


def test_masks_are_the_same_on_every_machine() -> None:
    kept = drop(torch.ones(16), 0.5, "body.weight", "site", "0", "0")
    assert kept.int().tolist() == [1, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 1, 0, 1]


def test_dare_ties_drops_then_elects() -> None:
    layer = layer_of([[2.0, -1.0, 0.5], [4.0, 3.0, -0.5]])
    assert_close(DareTies(drop=0.0)(layer), torch.tensor([3.0, 3.0, 0.0]))
    thinned = DareTies(drop=0.5)(layer_of(torch.ones(4, 1000)))
    assert set(thinned.unique().tolist()) == {0.0, 2.0}


def test_fisher_weighs_each_entry() -> None:
    layer = layer_of(
        [[1.0, 1.0, 1.0], [4.0, 5.0, 5.0]], fisher=torch.tensor([[2.0, 1.0, 0.0], [1.0, 3.0, 0.0]])
    )
    assert_close(Fisher(scale=2.0)(layer), torch.tensor([4.0, 8.0, 6.0]))


def test_fisher_without_weights_is_the_mean() -> None:
    layer = layer_of(noise(3, 8))
    assert torch.equal(Fisher()(layer), Mean()(layer))


def test_the_trimmed_mean_forgets_the_extremes() -> None:
    layer = layer_of([[1.0, 9.0], [2.0, -99.0], [1e9, 3.0], [3.0, 5.0], [-7.0, 4.0]])
    assert_close(TrimmedMean(trim=0.2)(layer), torch.tensor([2.0, 4.0]))
    assert torch.equal(TrimmedMean(trim=0.49)(layer), layer.stacked().median(0).values)


@pytest.mark.parametrize("trim", [0.0, 0.1, 0.25, 0.33, 0.45])
def test_the_trimmed_mean_equals_sorting(trim: float) -> None:
    layer = layer_of(noise(11, 50))
    left_out = int(trim * 11)
    wanted = layer.stacked().double().sort(0).values[left_out : 11 - left_out].mean(0).float()
    assert_close(TrimmedMean(trim=trim)(layer), wanted)


def squared_distances(vectors: Tensor) -> Tensor:
    rows = vectors.double()
    return (rows[:, None] - rows[None]).square().sum(-1)


def test_krum_takes_the_site_in_the_middle_of_the_crowd() -> None:
    vectors = torch.tensor([[0.0], [1.0], [2.1], [3.3], [100.0]])
    layer = layer_of(vectors, distances=squared_distances(vectors))
    assert_close(
        krum_scores(layer.statistics["distances"], 1)[:2],
        torch.tensor([1.0 + 2.1**2, 1.0 + 1.1**2], dtype=torch.float64),
    )
    assert Krum(byzantine=1, scale=2.0)(layer).item() == 2.0
    assert MultiKrum(byzantine=1)(layer).item() == pytest.approx((1.0 + 2.1) / 2)
    assert MultiKrum(byzantine=1, selected=4)(layer).item() == pytest.approx(6.4 / 4)


def test_krum_needs_enough_sites() -> None:
    layer = layer_of(torch.zeros(4, 2), distances=torch.zeros(4, 4, dtype=torch.float64))
    for rule in (Krum(byzantine=1), MultiKrum(byzantine=1)):
        with pytest.raises(
            ConfigError,
            match=r"\b5\b.*\b4\b.*strategy\.rule\.byzantine",
        ):
            rule(layer)
    with pytest.raises(ConfigError, match="selected=5"):
        MultiKrum(byzantine=0, selected=5)(layer)


@pytest.mark.parametrize(
    ("rule", "parameters"),
    [
        (Sum, {"scale": math.nan}),
        (Mean, {"fraction_bits": 63}),
        (WeightedMean, {"fraction_bits": -1}),
        (Ties, {"keep": 0.0}),
        (Ties, {"keep": 1.1}),
        (Dare, {"drop": 1.0}),
        (Dare, {"fraction_bits": 99}),
        (DareTies, {"drop": -0.1}),
        (Fisher, {"scale": math.inf}),
        (TrimmedMean, {"trim": 0.5}),
        (Krum, {"byzantine": -1}),
        (MultiKrum, {"selected": -1}),
    ],
)
def test_impossible_parameters_are_refused(rule: Any, parameters: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(parameters))):
        rule(**parameters)


def test_ill_shaped_or_impossible_statistics_are_refused() -> None:
    with pytest.raises(ValueError, match=r"body\.weight: .*\(2, 4\)"):
        Fisher()(layer_of(noise(2, 3), fisher=noise(2, 4)))
    with pytest.raises(ValueError, match=r"body\.weight"):
        Fisher()(layer_of(noise(2, 3), fisher=-torch.ones(2, 3)))
    with pytest.raises(ValueError, match="not all 0"):
        WeightedMean()(layer_of(noise(2, 3), weights=[0, 0]))


def test_a_sum_that_does_not_fit_is_refused_with_the_number_of_bits_that_do() -> None:
    layer = layer_of([[1.0, 2.0**21], [1.0, 2.0**22]], weights=[1, 10])
    assert_close(Mean()(layer), torch.tensor([1.0, 2.0**21 * 1.5]))
    with pytest.raises(
        ConfigError,
        match=r"body\.weight: .*site001\b.*strategy\.rule\.fraction_bits=37 \(now 40\)",
    ):
        WeightedMean()(layer)
    assert_close(WeightedMean(fraction_bits=37)(layer), torch.tensor([1.0, 2.0**21 * 21 / 11]))
    with pytest.raises(ConfigError, match=r"site000\. Withdraw"):
        Mean()(layer_of([[1e30], [1.0]]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_named(value: float) -> None:
    with pytest.raises(ModelInvalid, match=r"site001: body\.weight: .*NaN"):
        Mean()(layer_of([[1.0], [value]]))
    long = torch.zeros(2, 3 * PIECE)
    long[1, PIECE + 5] = value
    with pytest.raises(ModelInvalid, match="site001"):
        Dare(drop=0.0)(layer_of(long))


def test_running_statistics_are_known_by_their_names() -> None:
    assert is_normalization_statistic("encoder.0.norm.running_var")
    assert is_normalization_statistic("running_mean")
    assert not is_normalization_statistic("encoder.running_mean.weight")


def test_seeds_are_the_same_everywhere() -> None:
    assert seed_of("a", "b") == seed_of("a", "b") != seed_of("ab", "")
    assert 0 <= seed_of("a") < 2**64
