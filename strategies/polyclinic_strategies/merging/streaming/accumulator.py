"""Running sum of task vectors: a site joins or leaves at the cost of one task vector.

The sum is kept in whole numbers (`fixed_point`), so it keeps no trace of a site that left, and its
result has the same bits as that of `merge` over the same contributions.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from polyclinic.errors import ModelInvalid
from polyclinic.learning.state_dict import StateDict, load_metadata
from polyclinic_strategies.merging.arithmetic.fixed_point import (
    add_fixed,
    check_bound,
    from_fixed,
    largest,
)
from polyclinic_strategies.merging.arithmetic.layer import is_normalization_statistic, require
from polyclinic_strategies.merging.arithmetic.pieces import in_pieces
from polyclinic_strategies.merging.rules.mean import Mean
from polyclinic_strategies.merging.rules.sum import Sum
from polyclinic_strategies.merging.rules.weighted_mean import WeightedMean
from polyclinic_strategies.merging.streaming.merge import (
    STATISTICS_RULE,
    OpenContribution,
    add_to_base,
    read_task_vector,
)
from polyclinic_strategies.merging.streaming.streams import (
    Layout,
    StoredState,
    file_order,
    write_stream,
)

RULES = {rule.__name__: rule for rule in (Sum, Mean, WeightedMean)}
AdditiveRule = Sum | Mean | WeightedMean


@dataclass(frozen=True)
class Summand:
    """Part of a contribution in the sum; its largest values, in fixed point, bound the sum."""

    weight: int
    largest: int
    largest_statistic: int


@dataclass(frozen=True)
class Accumulator:
    """Sum of some contributions' task vectors, in a file.

    A change returns the new state and replaces the file, whole or not at all.

    Args:
        path: A safetensors file of int64 tensors; its header says which contributions it holds.
        rule: The rule that `result` applies to the sum.
        members: Digest of a contribution to its part in the sum.
    """

    path: Path
    rule: AdditiveRule
    members: Mapping[str, Summand] = field(default_factory=dict)

    @classmethod
    def create(cls, path: Path, base: Mapping[str, Tensor], rule: AdditiveRule) -> Self:
        """Create an empty sum for the floating-point tensors of a base model.

        Raises:
            DiskFull: No room.
        """
        made = cls(path, rule)
        shapes = {name: base[name].shape for name in base if base[name].is_floating_point()}
        layout = {name: (torch.int64, tuple(shape)) for name, shape in shapes.items()}
        made._write(
            layout,
            ((name, torch.zeros(shapes[name], dtype=torch.int64)) for name in file_order(layout)),
        )
        return made

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a sum that was kept.

        Raises:
            ModelInvalid: Missing, damaged, or not an accumulator.
        """
        with StoredState(path) as file:
            header = load_metadata(file.metadata, path)
        try:
            rule = RULES[header["rule"]](**header["parameters"])  # type: ignore[index, arg-type]
            listed = header["members"].items()  # type: ignore[attr-defined]
            return cls(path, rule, {digest: Summand(*values) for digest, values in listed})
        except (KeyError, TypeError) as error:
            raise ModelInvalid(
                f"{path}: not a sum of contributions. Delete it; it is made again from the ledger."
            ) from error

    def add(self, file: OpenContribution, digest: str, weight: int) -> Self:
        """Return the sum with one more contribution.

        Args:
            file: The contribution.
            digest: Its digest, by which it can be removed.
            weight: Its number of examples.

        Raises:
            ValueError: It is in the sum already, or the weight is not positive.
            ConfigError: The sum could overflow 64 bits. It stays as it was.
            ModelInvalid: It belongs to another network, or holds NaN or Inf.
            DiskFull: No room.
        """
        require(digest not in self.members, f"{digest}: in the sum already.")
        require(weight > 0, f"{digest}: {weight} examples.")
        return self._changed(self._joined(file, digest, weight), file, digest, weight)

    def remove(self, file: OpenContribution, digest: str) -> Self:
        """Return the sum without a contribution, bit for bit as if that had never been added.

        This cannot overflow: the bound that was checked when members joined covers every subset of
        them.

        Raises:
            ValueError: It is not in the sum.
            DiskFull: No room.
        """
        require(digest in self.members, f"{digest}: not in the sum.")
        members = {key: member for key, member in self.members.items() if key != digest}
        return self._changed(members, file, digest, -self.members[digest].weight)

    def result(self, base: Mapping[str, Tensor]) -> StateDict:
        """Return the merged model in memory; while the sum is empty, that is the base."""
        with StoredState(self.path) as totals:
            return dict(self._merged(base, list(base), totals))

    def _merged(
        self, base: Mapping[str, Tensor], names: list[str], totals: StoredState
    ) -> Iterator[tuple[str, Tensor]]:
        examples, count = sum(member.weight for member in self.members.values()), len(self.members)
        for name in names:
            if not count or name not in totals:
                yield name, base[name]
                continue
            rule = self._rule(name)
            denominator = {WeightedMean: examples, Mean: count}.get(type(rule), 1)
            vector = from_fixed(totals[name], denominator, rule.scale, rule.fraction_bits)
            yield name, add_to_base(name, base[name], vector)

    def _joined(self, file: OpenContribution, digest: str, weight: int) -> dict[str, Summand]:
        """Return the members with a new one, after checking that the sum still fits.

        This reads the contribution's tensors for the first time.
        """
        peaks = {True: 0, False: 0}
        with StoredState(self.path) as totals:
            for name, (_, shape) in totals.layout().items():
                vector = read_task_vector(file, digest, name, torch.Size(shape))
                peak = largest(vector, self._rule(name).fraction_bits, f"{digest}: {name}")
                statistic = is_normalization_statistic(name)
                peaks[statistic] = max(peaks[statistic], peak)
        members = {**self.members, digest: Summand(weight, peaks[False], peaks[True])}
        weighted = isinstance(self.rule, WeightedMean)
        parameters = {
            key: (member.weight if weighted else 1) * member.largest
            for key, member in members.items()
        }
        statistics = {
            key: member.weight * member.largest_statistic for key, member in members.items()
        }
        check_bound(parameters, self.rule.fraction_bits, "sum of contributions")
        check_bound(
            statistics, STATISTICS_RULE.fraction_bits, "sum of running statistics", adjustable=False
        )
        return members

    def _changed(
        self, members: dict[str, Summand], file: OpenContribution, digest: str, factor: int
    ) -> Self:
        """Read the contribution's tensors a second time, and replace the file."""
        changed = replace(self, members=members)
        with StoredState(self.path) as totals:
            layout = totals.layout()

            def summed() -> Iterator[tuple[str, Tensor]]:
                for name in file_order(layout):
                    rule, total = self._rule(name), totals[name].clone()
                    vector = read_task_vector(file, digest, name, total.shape)
                    sign = 1 if factor > 0 else -1
                    times = factor if isinstance(rule, WeightedMean) else sign
                    _add(total.view(-1), vector.reshape(-1), times, rule.fraction_bits)
                    yield name, total

            changed._write(layout, summed())
        return changed

    def _rule(self, name: str) -> AdditiveRule:
        return STATISTICS_RULE if is_normalization_statistic(name) else self.rule

    def _write(self, layout: Layout, totals: Iterator[tuple[str, Tensor]]) -> None:
        members = {
            digest: (member.weight, member.largest, member.largest_statistic)
            for digest, member in self.members.items()
        }
        header = {
            "rule": type(self.rule).__name__,
            "parameters": asdict(self.rule),
            "members": members,
        }
        write_stream(self.path, layout, totals, {"polyclinic": json.dumps(header, sort_keys=True)})


def _add(total: Tensor, vector: Tensor, factor: int, fraction_bits: int) -> None:
    in_pieces(
        lambda piece: add_fixed(total[piece], vector[piece], factor, fraction_bits), total.numel()
    )
