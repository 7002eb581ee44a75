"""Sums of task vectors in whole numbers: independent of their order, and reversible.

A value t becomes q = round(t · 2^fraction_bits), an int64. Sums of q are exact, so any order of
sites gives the same bits, and removing a site is the inverse of adding it. Only the last step, back
to float32, rounds again. With 40 bits a value is kept within 2^-41 (4.5e-13).
"""

from collections.abc import Mapping, Sequence
from math import isfinite, sqrt

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from polyclinic_strategies.merging.arithmetic.layer import Layer, is_normalization_statistic
from polyclinic_strategies.merging.arithmetic.pieces import in_pieces
from polyclinic_strategies.merging.intake.blame import EntryInvalid, EntryUnsuitable

FRACTION_BITS = 40
LARGEST = 2**63 - 1


def largest(values: Float32[Tensor, "..."], fraction_bits: int, where: str) -> int:
    """Return the largest absolute value in fixed point, rounded up.

    Raises:
        ModelInvalid: A value is NaN or Inf.
    """
    if not values.numel():
        return 0
    low, high = (float(value) for value in torch.aminmax(values))
    if not (isfinite(low) and isfinite(high)):
        raise EntryInvalid(
            where.partition(":")[0],
            f"{where}: contains NaN or Inf, so it cannot be merged. Withdraw this site's "
            "contribution.",
        )
    return int(max(abs(low), abs(high)) * 2.0**fraction_bits) + 1


def check_bound(
    bounds: Mapping[str, int], fraction_bits: int, name: str, *, adjustable: bool = True
) -> None:
    """Refuse a sum that could overflow 64 bits.

    Args:
        bounds: Each site's factor times its largest value, whole numbers of any size.
        fraction_bits: Binary places with which they were made.
        name: Name of the parameter.
        adjustable: Whether the bits are a setting; those of running statistics are not.

    Raises:
        ConfigError: The sum could overflow. The message names the number of bits that would be
            possible, and the site with the largest values.
    """
    bound = sum(bounds.values())
    if bound > LARGEST:
        site = max(sorted(bounds), key=lambda key: bounds[key])
        enough = fraction_bits - (bound // LARGEST).bit_length()
        lower = (
            f"Set strategy.rule.fraction_bits={enough} (now {fraction_bits}), or withdraw"
            if adjustable and enough >= 0
            else "Withdraw"
        )
        raise EntryUnsuitable(
            site,
            f"{name}: the values are too large to be summed exactly in 64 bits, most of all those "
            f"of {site}. {lower} that contribution.",
        )


def check_layer(
    layer: Layer, factors: Sequence[int], norms: Sequence[Sequence[float]], fraction_bits: int
) -> None:
    """Refuse a layer whose sum Σ factor_i τ_i could have overflowed 64 bits.

    Args:
        layer: The layer.
        factors: One per site.
        norms: Per piece, each site's `norm`. They are mostly enough to know that the sum fits,
            without looking for the largest value.
        fraction_bits: Binary places.

    Raises:
        ConfigError: The sum could have overflowed.
        ModelInvalid: A value is NaN or Inf.
    """
    finite = isfinite(sum(map(sum, norms)))  # max() would overlook NaN
    columns = zip(*norms, strict=True)
    bound = sum(factor * max(column) for factor, column in zip(factors, columns, strict=False))
    if finite and bound * 2.0**fraction_bits < LARGEST / 2:
        return
    parts = zip(layer.keys, factors, layer.vectors, strict=True)
    bounds = {
        key: factor * largest(vector, fraction_bits, f"{key}: {layer.name}")
        for key, factor, vector in parts
    }
    check_bound(
        bounds, fraction_bits, layer.name, adjustable=not is_normalization_statistic(layer.name)
    )


def norm(values: Float32[Tensor, " n"]) -> float:
    """Return a bound on the absolute values, faster than their maximum.

    It is NaN or Inf if a value is.
    """
    # the margins cover float32's rounding, and squares that are too small for it
    return sqrt(float(torch.dot(values, values))) * 1.01 + 1e-18


def sum_fixed(
    rows: Sequence[Float32[Tensor, " n"]], factors: Sequence[int], fraction_bits: int
) -> tuple[Int64[Tensor, " n"], list[float]]:
    """Return Σ factor_i · round(row_i · 2^fraction_bits), and the rows' `norm`.

    Where float64 can round, it does: the bits of 1.5 · 2^(52 - fraction_bits) + t, read as a whole
    number, are those of the first summand plus round(t · 2^fraction_bits). Their sum modulo 2^64 is
    the sum that is wanted, once the first summands are taken off. The sum wraps around where 64
    bits are too few; `check_layer` detects that.
    """
    norms = [norm(row) for row in rows]
    if max(norms) * 2.0**fraction_bits >= 2.0**51:
        total = torch.zeros(rows[0].numel(), dtype=torch.int64)
        for row, factor in zip(rows, factors, strict=True):
            add_fixed(total, row, factor, fraction_bits)
        return total, norms
    rounder = np.float64(1.5 * 2.0 ** (52 - fraction_bits))
    # numpy converts and adds in one pass, torch in two
    whole = np.full(rows[0].numel(), -sum(factors) * int(rounder.view(np.int64)) % 2**64, np.uint64)
    rounded = np.empty(whole.shape)
    bits = rounded.view(np.uint64)
    for row, factor in zip(rows, factors, strict=True):
        np.add(row.numpy(), rounder, out=rounded, dtype=np.float64)
        whole += bits if factor == 1 else np.multiply(bits, np.uint64(factor % 2**64), out=bits)
    return torch.from_numpy(whole.view(np.int64)), norms


def add_fixed(
    total: Int64[Tensor, " n"], values: Float32[Tensor, " n"], factor: int, fraction_bits: int
) -> None:
    """Add factor · round(values · 2^fraction_bits) to `total`, in place.

    It wraps around where 64 bits are too few.
    """
    total.add_(values.mul(2.0**fraction_bits).round_().to(torch.int64), alpha=factor)


def from_fixed(total: Tensor, denominator: int, scale: float, fraction_bits: int) -> Tensor:
    """Return scale · total / (denominator · 2^fraction_bits), rounded from float64 to float32."""
    return total.double().div_(float(denominator << fraction_bits)).mul_(scale).float()


def merge_fixed(
    layer: Layer, factors: Sequence[int], denominator: int, scale: float, fraction_bits: int
) -> Float32[Tensor, "*shape"]:
    """Return scale · Σ factor_i τ_i / denominator, with exact sums.

    Only each τ_i and the result are rounded.

    Raises:
        ConfigError: The sum could overflow 64 bits.
        ModelInvalid: A value is NaN or Inf.
    """
    rows = layer.rows
    merged = torch.empty(rows[0].numel())

    def merge_piece(piece: slice) -> list[float]:
        total, norms = sum_fixed([row[piece] for row in rows], factors, fraction_bits)
        merged[piece] = from_fixed(total, denominator, scale, fraction_bits)
        return norms

    check_layer(layer, factors, in_pieces(merge_piece, merged.numel()), fraction_bits)
    return merged.reshape(layer.base.shape)
