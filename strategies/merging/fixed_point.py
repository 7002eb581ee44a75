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
from strategies.merging.pieces import in_pieces

FRACTION_BITS = 40
LARGEST = 2**63 - 1


def to_fixed(value: float, fraction_bits: int, where: str) -> int:
    """The largest absolute value of a tensor in fixed point, rounded up.

    Raises:
        ModelInvalid: NaN or Inf.
    """
    if not isfinite(value):
        raise ModelInvalid(f"{where}: contains NaN or Inf, so it cannot be merged. Withdraw this site's contribution.")
    return int(value * 2.0**fraction_bits) + 1


def magnitude(values: Float32[Tensor, "..."]) -> float:
    """The largest absolute value; NaN if there is one."""
    if not values.numel():
        return 0.0
    low, high = torch.aminmax(values)
    return max(abs(float(low)), abs(float(high)), key=lambda value: (value != value, value))


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


def check_layer(layer: Layer, factors: Sequence[int], pieces: Sequence[Sequence[float]], fraction_bits: int) -> None:
    """Refuse a layer whose sum Σ factor_i τ_i could have left 64 bits.

    Args:
        layer: The layer.
        factors: One per site.
        pieces: Per piece, each site's largest magnitude.
        fraction_bits: Binary places.

    Raises:
        ConfigError: It could.
        ModelInvalid: NaN or Inf inside.
    """
    bounds = {}
    for number, (key, factor) in enumerate(zip(layer.keys, factors, strict=True)):
        found = [to_fixed(piece[number], fraction_bits, f"{key}: {layer.name}") for piece in pieces]
        bounds[key] = factor * max(found, default=0)
    check_bound(bounds, fraction_bits, layer.name)


def add_fixed(total: Int64[Tensor, " n"], values: Float32[Tensor, " n"], factor: int, fraction_bits: int) -> float:
    """total += factor · round(values · 2^fraction_bits), in place; returns the values' largest magnitude.

    Wraps around where 64 bits are too few: who calls it checks the bound, before or after. Below 2^51 in fixed point, rounding is left to
    the addition of 1.5 · 2^(52 - fraction_bits) in float64: a sum there has steps of 2^-fraction_bits, and its bits, as a whole number, are
    q plus those of that constant.
    """
    largest = magnitude(values)
    if largest < 2.0 ** (51 - fraction_bits):
        offset = torch.tensor(1.5 * 2.0 ** (52 - fraction_bits), dtype=torch.float64)
        whole = values.double().add_(offset).view(torch.int64).sub_(offset.view(torch.int64))
    else:
        whole = values.mul(2.0**fraction_bits).round_().to(torch.int64)
    total.add_(whole, alpha=factor)
    return largest


def from_fixed(total: Int64[Tensor, "*shape"], denominator: int, scale: float, fraction_bits: int) -> Float32[Tensor, "*shape"]:
    """scale · total / (denominator · 2^fraction_bits), rounded from float64 to float32."""
    return total.double().div_(float(denominator << fraction_bits)).mul_(scale).float()


def merge_fixed(layer: Layer, factors: Sequence[int], denominator: int, scale: float, fraction_bits: int) -> Float32[Tensor, "*shape"]:
    """scale · Σ factor_i τ_i / denominator, exact up to the rounding of each τ_i and of the result.

    Raises:
        ConfigError: The sum could leave 64 bits.
        ModelInvalid: NaN or Inf inside.
    """
    rows = layer.vectors.reshape(len(factors), -1)
    merged = torch.empty(rows.shape[1])

    def merge_piece(piece: slice) -> list[float]:
        total = torch.zeros(piece.stop - piece.start, dtype=torch.int64)
        found = [add_fixed(total, row[piece], factor, fraction_bits) for factor, row in zip(factors, rows, strict=True)]
        merged[piece] = from_fixed(total, denominator, scale, fraction_bits)
        return found

    check_layer(layer, factors, in_pieces(merge_piece, rows.shape[1]), fraction_bits)
    return merged.reshape(layer.vectors.shape[1:])
