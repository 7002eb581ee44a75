"""Merge task vectors that are in memory or in files: the same arithmetic as in a federation."""

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from polyclinic.errors import ConfigError
from polyclinic.store.contribution import TensorFile
from polyclinic_strategies.merging.arithmetic.configured import rule_settings, single_rule
from polyclinic_strategies.merging.arithmetic.layer import Rule
from polyclinic_strategies.merging.streaming.merge import OpenContribution
from polyclinic_strategies.merging.streaming.merge import merge as merge_sites

State = Mapping[str, Tensor]


class MemoryVectors:
    """A task vector in memory, without statistics.

    Args:
        tensors: Tensor by parameter.
    """

    statistics: Collection[str] = ()

    def __init__(self, tensors: State) -> None:
        self._tensors = tensors

    def task_vector(self, name: str) -> Tensor:
        """Read a parameter's task vector, float32."""
        return self._tensors[name].float()

    def statistic(self, name: str) -> Tensor:
        """There is none.

        Raises:
            KeyError: Always.
        """
        raise KeyError(name)


def merge(
    vectors: Mapping[str, State | str | Path],
    rule: str | Rule = "mean",
    *,
    base: State | None = None,
    weights: Mapping[str, int] | None = None,
    **parameters: float,
) -> dict[str, Tensor]:
    """Merge task vectors by a rule.

    Example:
        ```python
        vectors = {"north": {"w": torch.tensor([2.0])}, "south": {"w": torch.tensor([4.0])}}
        polyclinic.merge(vectors, "mean")["w"]  # tensor([3.])
        ```

    Args:
        vectors: By hospital a task vector (tuned weights minus the base's, by parameter, all of the
            same names and shapes), or the file of a contribution, which may hold statistics.
        rule: Name of a file in conf/strategy/merging, or a `Rule`.
        base: Weights that the task vectors were made from; zeros if not given.
        weights: Number of examples of each hospital; those of the files, and 1 in memory, if not
            given. Only rules that weigh hospitals read them.
        parameters: Settings of the rule that are not its file's, such as `scale=0.5`.

    Returns:
        By parameter base plus merged task vector, in the base's type and shape; without a base the
        merged task vector itself, float32. The order of hospitals plays no part.

    Raises:
        UnknownName: There is no such rule.
        ConfigError: The rule has no such parameter, needs statistics that are not there, or cannot
            merge so few hospitals; or there is no hospital.
        ModelInvalid: Names or shapes differ, or a number is not finite.
        ContributionDamaged: A file is not a contribution.
    """
    if not vectors:
        raise ConfigError("There is nothing to merge: give a task vector of one hospital at least.")
    with ExitStack() as stack:
        files: dict[str, OpenContribution] = {}
        counts = dict.fromkeys(vectors, 1)
        for site, given in vectors.items():
            if isinstance(given, Mapping):
                files[site] = MemoryVectors(given)
            else:
                file = stack.enter_context(TensorFile(Path(given)))
                files[site], counts[site] = file, file.contribution.num_examples
        start = _zeros(next(iter(vectors.values()))) if base is None else base
        made = _make_rule(rule, parameters)
        return dict(merge_sites(start, files, {**counts, **(weights or {})}, made))


def _make_rule(rule: str | Rule, parameters: Mapping[str, float]) -> Rule:
    if not isinstance(rule, str):
        if parameters:
            raise ConfigError(f"{', '.join(parameters)}: give them to the rule itself.")
        return rule
    settings = rule_settings(rule)
    return single_rule({**settings, "rule": {**settings["rule"], **parameters}})


def _zeros(given: State | str | Path) -> dict[str, Tensor]:
    """Zeros in the shapes of a task vector."""
    if isinstance(given, Mapping):
        return {name: torch.zeros(tensor.shape) for name, tensor in given.items()}
    with TensorFile(Path(given)) as file:
        return {name: torch.zeros(file.shape(name)) for name in file.names}
