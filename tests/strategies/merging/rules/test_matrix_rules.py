from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from polyclinic_strategies.merging.arithmetic.layer import Layer, Rule
from polyclinic_strategies.merging.arithmetic.matrices import (
    leading_directions,
    nearest_solution,
    polar,
)
from polyclinic_strategies.merging.rules.iso_c import IsoC
from polyclinic_strategies.merging.rules.mean import Mean
from polyclinic_strategies.merging.rules.regmean import RegMean
from polyclinic_strategies.merging.rules.tsv_m import TsvM
from polyclinic_strategies.merging.rules.wudi import Wudi, minimize_interference

RULES: list[Rule] = [RegMean(), IsoC(), TsvM(), Wudi()]
names = [type(rule).__name__ for rule in RULES]


def layer_of(vectors: Tensor, **statistics: Tensor) -> Layer:
    keys = tuple(f"site{number}" for number in range(len(vectors)))
    return Layer(
        "body.weight",
        torch.zeros(vectors.shape[1:]),
        tuple(vectors),
        (1,) * len(vectors),
        keys,
        statistics,
    )


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 1e-2


def gram(inputs: Tensor) -> Tensor:
    return inputs.mT @ inputs


@pytest.mark.parametrize("rule", RULES, ids=names)
@pytest.mark.parametrize("shape", [(), (7,), (0, 3)])
def test_biases_and_norms_take_the_mean(rule: Rule, shape: tuple[int, ...]) -> None:
    layer = layer_of(noise(3, *shape))
    assert torch.equal(rule(layer), Mean(rule.scale)(layer))


@pytest.mark.parametrize("rule", RULES, ids=names)
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 2, 3, 3), (1, 40), (40, 1), (2, 1, 3, 3, 3)])
def test_shapes_are_kept_and_the_order_changes_rounding_at_most(
    rule: Rule, shape: tuple[int, ...]
) -> None:
    vectors, grams = noise(3, *shape), gram(noise(3, 50, torch.Size(shape[1:]).numel(), seed=1))
    merged = rule(layer_of(vectors, gram=grams))
    assert merged.shape == shape
    assert merged.dtype == torch.float32
    order = [2, 0, 1]
    assert_close(rule(layer_of(vectors[order], gram=grams[order])), merged, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("rule", RULES, ids=names)
def test_nothing_learned_gives_nothing(rule: Rule) -> None:
    assert torch.equal(rule(layer_of(torch.zeros(3, 4, 5))), torch.zeros(4, 5))


@pytest.mark.parametrize("shape", [(8, 5), (3, 20)])
@pytest.mark.parametrize("sites", [1, 2, 4])
def test_identical_sites_give_what_one_of_them_has(shape: tuple[int, int], sites: int) -> None:
    one = noise(*shape)
    layer = layer_of(
        one.expand(sites, *shape).clone(), gram=gram(noise(50, shape[1])).expand(sites, -1, -1)
    )
    assert_close(RegMean()(layer), one)
    assert_close(Wudi()(layer), one)


def test_iso_c_flattens_the_sum() -> None:
    left, right = (torch.linalg.qr(noise(8, 3, seed=seed)).Q for seed in (1, 2))
    total = left @ torch.diag(torch.tensor([3.0, 2.0, 1.0])) @ right.T
    layer = layer_of(torch.stack([total * 0.25, total * 0.75]))
    assert_close(IsoC(scale=0.5)(layer), left @ right.T * 0.5 * 6 / 8)


def test_iso_c_against_a_singular_value_decomposition() -> None:
    layer = layer_of(noise(3, 6, 11))
    left, lengths, right = torch.linalg.svd(layer.stacked().sum(0), full_matrices=False)
    assert_close(IsoC(scale=1.0)(layer), lengths.mean() * left @ right)


def test_tsv_m_takes_sites_that_do_not_interfere_as_they_are() -> None:
    first, second = torch.zeros(2, 6, 6)
    first[:3, :3], second[3:, 3:] = noise(3, 3), noise(3, 3, seed=1)
    assert_close(TsvM()(layer_of(torch.stack([first, second]))), first + second)


def test_tsv_m_against_singular_value_decompositions() -> None:
    vectors = noise(3, 9, 14)
    triplets = [
        [part[..., :3] for part in (u, s, vh.T)]
        for u, s, vh in (torch.linalg.svd(v, full_matrices=False) for v in vectors)
    ]
    left, lengths, right = (torch.cat(parts, dim=-1) for parts in zip(*triplets, strict=True))
    factors = []
    for columns in (left, right):
        u, _, vh = torch.linalg.svd(columns, full_matrices=False)
        factors.append(u @ vh)
    assert_close(
        TsvM()(layer_of(vectors)),
        factors[0] @ torch.diag(lengths) @ factors[1].T,
        rtol=1e-4,
        atol=1e-7,
    )


def test_tsv_m_with_equal_sites_keeps_the_leading_directions_once() -> None:
    one = noise(6, 6)
    u, s, vh = torch.linalg.svd(one)
    assert_close(TsvM()(layer_of(torch.stack([one, one]))), u[:, :3] @ torch.diag(s[:3]) @ vh[:3])


def interference(merged: Tensor, vectors: Sequence[Tensor] | Tensor) -> float:
    return sum(float(((merged - v) @ v.T).square().sum() / v.square().sum()) for v in vectors)


@pytest.mark.parametrize("shape", [(8, 5), (3, 40)])
def test_wudi_is_a_minimum_and_the_one_nearest_to_the_sum(shape: tuple[int, int]) -> None:
    vectors = noise(4, *shape).double()
    merged = minimize_interference(vectors)
    variable = vectors.sum(0).clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [variable],
        max_iter=2000,
        tolerance_grad=1e-14,
        tolerance_change=1e-18,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum(
            (((variable - v) @ v.T).square().sum() / v.square().sum() for v in vectors),
            torch.zeros(()).double(),
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    assert interference(merged, vectors) <= interference(variable.detach(), vectors) * (1 + 1e-6)
    assert_close(merged, variable.detach(), rtol=1e-3, atol=1e-5)


def test_wudi_solves_the_same_in_the_span_of_the_rows() -> None:
    vectors = noise(2, 3, 40).double()
    gram_sum = sum((v.T @ v / v.square().sum() for v in vectors), torch.zeros(40, 40).double())
    total = vectors.sum(0)
    residual = sum(
        ((v - total) @ v.T @ v / v.square().sum() for v in vectors), torch.zeros(3, 40).double()
    )
    assert_close(
        minimize_interference(vectors),
        total + residual @ torch.linalg.pinv(gram_sum, hermitian=True),
    )


@pytest.mark.parametrize("off_diagonal", [1.0, 0.95, 0.0])
def test_regmean_is_the_paper_s_rule_on_weights(off_diagonal: float) -> None:
    base, vectors, inputs = noise(4, 6), noise(3, 4, 6, seed=1), torch.randn(3, 50, 6)
    grams = gram(inputs)
    shrunk = grams * off_diagonal + torch.diag_embed(grams.diagonal(dim1=1, dim2=2)) * (
        1 - off_diagonal
    )
    weights = (base + vectors).mT  # the paper's are (in, out)
    wanted = (torch.linalg.inv(shrunk.sum(0)) @ (shrunk @ weights).sum(0)).T
    assert_close(
        base + RegMean(off_diagonal=off_diagonal)(layer_of(vectors, gram=grams)),
        wanted,
        rtol=1e-4,
        atol=1e-6,
    )


def test_regmean_without_shrinkage_is_least_squares_on_pooled_inputs() -> None:
    vectors, inputs = noise(3, 2, 2, 3), torch.randn(3, 40, 6)  # a convolution, unfolded
    matrices = vectors.flatten(2)
    pooled = torch.linalg.lstsq(
        inputs.reshape(-1, 6), (inputs @ matrices.mT).reshape(-1, 2)
    ).solution.T
    assert_close(
        RegMean(off_diagonal=1.0)(layer_of(vectors, gram=gram(inputs))).flatten(1),
        pooled,
        rtol=1e-4,
        atol=1e-6,
    )


def test_regmean_keeps_the_mean_where_nobody_saw_an_input() -> None:
    vectors, inputs = noise(3, 4, 6), torch.randn(3, 50, 6)
    inputs[..., 2:4] = 0
    merged = RegMean()(layer_of(vectors, gram=gram(inputs)))
    assert_close(merged[:, 2:4], vectors.mean(0)[:, 2:4])
    assert_close(RegMean()(layer_of(vectors, gram=torch.zeros(3, 6, 6))), vectors.mean(0))


def test_regmean_without_statistics_of_the_layer_is_the_mean() -> None:
    layer = layer_of(noise(3, 4, 6))
    assert torch.equal(RegMean()(layer), Mean()(layer))


def test_ill_shaped_statistics_and_impossible_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"body\.weight: .*\(3, 4, 4\).*\b6\b"):
        RegMean()(layer_of(noise(3, 4, 6), gram=torch.zeros(3, 4, 4)))
    with pytest.raises(ValueError, match="off_diagonal"):
        RegMean(off_diagonal=1.5)
    for rule in (IsoC, TsvM, Wudi, RegMean):
        with pytest.raises(ValueError, match="scale"):
            rule(scale=float("nan"))


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_polar_and_leading_directions_against_a_singular_value_decomposition(
    shape: tuple[int, int],
) -> None:
    matrix = noise(*shape).double()
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    factor, lengths = polar(matrix)
    assert_close(factor, u @ vh)
    assert_close(lengths.flip(0), s)
    left, leading, right = leading_directions(matrix, 2)
    assert_close((left * leading) @ right.T, u[:, :2] @ torch.diag(s[:2]) @ vh[:2])


def test_nearest_solution_falls_back_where_the_problem_is_flat() -> None:
    rows = noise(3, 5).double()
    hessian, start = rows.T @ rows, noise(2, 5, seed=1).double()
    target = noise(2, 5, seed=2).double()
    found = nearest_solution(start, (target - start) @ hessian, hessian)
    flat = torch.eye(5, dtype=torch.float64) - torch.linalg.pinv(rows) @ rows
    assert_close(found @ rows.T, target @ rows.T)
    assert_close(found @ flat, start @ flat)


@pytest.mark.parametrize("rule", [IsoC, TsvM])
@pytest.mark.parametrize(("shape", "same"), [((4, 6), True), ((4, 3, 2), False), ((5,), True)])
def test_kernels_are_unfolded_or_averaged_and_matrices_are_not_touched_by_the_choice(
    rule: type[IsoC | TsvM], shape: tuple[int, ...], same: bool
) -> None:
    torch.manual_seed(0)
    layer = layer_of(torch.randn(3, *shape))
    unfolded, averaged = rule(0.7)(layer), rule(0.7, unfold=False)(layer)
    assert torch.equal(unfolded, averaged) == same
    if not same:
        assert torch.equal(averaged, Mean(0.7)(layer))
        flat = layer_of(torch.stack([vector.flatten(1) for vector in layer.vectors]))
        assert_close(unfolded.flatten(1), rule(0.7)(flat))
