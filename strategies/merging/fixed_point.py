"""Sums of task vectors in whole numbers, so that their order does not matter and what was added can be taken out again.

A value t becomes q = round(t · 2^fraction_bits), an int64; sums of q are exact, so any order of sites gives the same bits and removing a
site is the inverse of adding it. Only the last step, back to float32, rounds again. With 40 bits a value is kept within 2^-41 (4.5e-13).
"""

from collections.abc import Mapping, Sequence
from math import isfinite

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from polyclinic.errors import ConfigError, ModelInvalid
from strategies.merging.layer import Layer

FRACTION_BITS = 40
LARGEST = 2**63 - 1
PIECE = 1 << 16  # numbers worked on at a time: what a core's cache holds


def largest(values: Float32[Tensor, "..."], fraction_bits: int, where: str) -> int:
    """The largest absolute value in fixed point, an upper bound for every entry.

    Raises:
        ModelInvalid: NaN or Inf inside.
    """
    if not values.numel():
        return 0
    low, high = (float(value) for value in torch.aminmax(values))
    if not (isfinite(low) and isfinite(high)):
        raise ModelInvalid(f"{where}: contains NaN or Inf, so it cannot be merged. Withdraw this site's contribution.")
    return int(max(abs(low), abs(high)) * 2.0**fraction_bits) + 1


def check_bound(bounds: Mapping[str, int], fraction_bits: int, name: str) -> None:
    """Refuse a sum that could leave 64 bits.

    Args:
        bounds: Each site's factor times its largest value, whole numbers of any size.
        fraction_bits: What they were made with.
        name: The parameter.

    Raises:
        ConfigError: It could; names the number of bits that would do, and whose values are the largest.
    """
    bound = sum(bounds.values())
    if bound > LARGEST:
        site = max(sorted(bounds), key=lambda key: bounds[key])
        enough = fraction_bits - (bound // LARGEST).bit_length()
        lower = f"Set strategy.rule.fraction_bits={enough} (now {fraction_bits}), or withdraw" if enough >= 0 else "Withdraw"
        raise ConfigError(
            f"{name}: the values are too large to be summed exactly in 64 bits, most of all those of {site}. {lower} that contribution."
        )


def check_total(layer: Layer, factors: Sequence[int], fraction_bits: int) -> None:
    """Refuse a layer whose sum Σ factor_i τ_i could leave 64 bits.

    Raises:
        ConfigError: It could.
        ModelInvalid: NaN or Inf inside.
    """
    parts = zip(layer.keys, factors, layer.vectors, strict=True)
    bounds = {key: factor * largest(vector, fraction_bits, f"{key}: {layer.name}") for key, factor, vector in parts}
    check_bound(bounds, fraction_bits, layer.name)


def add_fixed(total: Int64[Tensor, " n"], values: Float32[Tensor, " n"], factor: int, fraction_bits: int) -> None:
    """total += factor · round(values · 2^fraction_bits), in place."""
    for start in range(0, values.numel(), PIECE):
        whole = values[start : start + PIECE].mul(2.0**fraction_bits).round_().to(torch.int64)
        total[start : start + PIECE].add_(whole, alpha=factor)


def from_fixed(total: Int64[Tensor, "*shape"], denominator: int, scale: float, fraction_bits: int) -> Float32[Tensor, "*shape"]:
    """scale · total / (denominator · 2^fraction_bits), rounded from float64 to float32."""
    return total.double().div_(float(denominator << fraction_bits)).mul_(scale).float()


def merge_fixed(layer: Layer, factors: Sequence[int], denominator: int, scale: float, fraction_bits: int) -> Float32[Tensor, "*shape"]:
    """scale · Σ factor_i τ_i / denominator, exact up to the rounding of each τ_i and of the result.

    Raises:
        ConfigError: The sum could leave 64 bits.
        ModelInvalid: NaN or Inf inside.
    """
    check_total(layer, factors, fraction_bits)
    rows = layer.vectors.reshape(len(factors), -1)
    merged = torch.empty(rows.shape[1])
    for start in range(0, rows.shape[1], PIECE):
        piece = merged[start : start + PIECE]
        total = torch.zeros(piece.numel(), dtype=torch.int64)
        for factor, row in zip(factors, rows, strict=True):
            add_fixed(total, row[start : start + PIECE], factor, fraction_bits)
        piece.copy_(from_fixed(total, denominator, scale, fraction_bits))
    return merged.reshape(layer.vectors.shape[1:])
