"""Merging of models tensor by tensor, from files: memory is one parameter times the sites.

θ = θ0 + rule(τ_1 ... τ_N), a pure function of the base, the contributions and the rule. Sites are
taken in the order of their names, so the order of arrival does not matter. Running statistics of
normalization layers take the mean weighted by examples: they describe images and are not learned
directions. A robust rule merges them as it does all else, or one site could move them anywhere.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64
from safetensors import SafetensorError
from torch import Tensor

from polyclinic.errors import ConfigError
from polyclinic.learning.state_dict import StateDict
from polyclinic.store.contribution import TensorFile
from polyclinic_strategies.merging.arithmetic.layer import Layer, Rule, is_normalization_statistic
from polyclinic_strategies.merging.intake.blame import EntryInvalid, EntryUnsuitable
from polyclinic_strategies.merging.rules.weighted_mean import WeightedMean
from polyclinic_strategies.merging.streaming.application import apply_rule
from polyclinic_strategies.merging.streaming.streams import StoredState, file_order, write_stream

# running statistics are larger than task vectors and need fewer binary places
STATISTICS_RULE = WeightedMean(fraction_bits=32)
PIECE = 1 << 20  # count of numbers, of all sites, that are compared at a time


@runtime_checkable
class OpenContribution(Protocol):
    """What a merge needs of a contribution: a `TensorFile`, or a stand-in for one."""

    @property
    def statistics(self) -> Collection[str]:
        """Names of its statistics, such as `gram/PARAMETER`."""
        ...

    def task_vector(self, name: str) -> Tensor:
        """Return a parameter's task vector, float32."""
        ...

    def statistic(self, name: str) -> Tensor:
        """Return one of `statistics`, float32."""
        ...


def merge(
    base: Mapping[str, Tensor],
    files: Mapping[str, OpenContribution],
    weights: Mapping[str, int],
    rule: Rule,
    *,
    on_layer: Callable[[str], None] | None = None,
) -> StateDict:
    """Merge contributions in memory; without any, the merged model is the base.

    Args:
        base: The base model, a state dict or a `StoredState`. Tensors that are not floating-point
            are copied.
        files: Each site's opened contribution, in any order.
        weights: Each site's number of examples.
        rule: Any rule of `polyclinic_strategies.merging.rules`.
        on_layer: Called with each parameter's name once it is merged.

    Raises:
        ConfigError: A contribution lacks statistics that the rule needs, or the rule's parameters
            do not suit the number of sites.
        ModelInvalid: A contribution belongs to another network, or holds NaN or Inf.
    """
    return dict(_stream(base, list(base), _Sites(files, weights), rule, on_layer))


def merge_to_file(
    base_path: Path,
    paths: Sequence[Path],
    rule: Rule,
    out: Path,
    *,
    metadata: Mapping[str, str] | None = None,
    on_layer: Callable[[str], None] | None = None,
) -> None:
    """Merge from files to a file, with one parameter of all sites in memory at a time.

    Args:
        base_path: A safetensors file, the base model.
        paths: Contributions, one per site; names and weights are read from their headers.
        rule: Any rule of `polyclinic_strategies.merging.rules`.
        out: The merged model, written whole or not at all.
        metadata: Metadata of the written file; by default the base's.
        on_layer: Called with each parameter's name once it is merged.

    Raises:
        ConfigError: Two contributions are from one site, or see `merge`.
        ModelInvalid: See `merge`.
        ContributionDamaged: A contribution cannot be read.
        DiskFull: No room.
    """
    with ExitStack() as stack:
        base = stack.enter_context(StoredState(base_path))
        files = [stack.enter_context(TensorFile(path)) for path in paths]
        parts = {file.contribution.site: file for file in files}
        if len(parts) < len(files):
            raise ConfigError(
                "Two of the contributions are from the same site: merge the newest of each site."
            )
        sites = _Sites(
            parts, {site: file.contribution.num_examples for site, file in parts.items()}
        )
        layout = base.layout()
        merged = _stream(base, file_order(layout), sites, rule, on_layer)
        write_stream(out, layout, merged, base.metadata if metadata is None else metadata)


def add_to_base(name: str, base: Tensor, vector: Tensor) -> Tensor:
    """Return θ0 + Δ in the base's type; a variance stays at or above zero."""
    merged = base.float() + vector
    if name.endswith("running_var"):
        merged.clamp_min_(0.0)
    return merged.to(base.dtype)


def _stream(
    base: Mapping[str, Tensor],
    names: Sequence[str],
    sites: "_Sites",
    rule: Rule,
    on_layer: Callable[[str], None] | None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield name and merged tensor, in the order of `names`."""
    for kind in sorted(rule.needs):
        _check_statistics(sites.files, kind)
    if sites.files and "distances" in rule.global_statistics:
        sites.distances = _distances(
            sites, base, [name for name in names if not is_normalization_statistic(name)]
        )
    for name in names:
        before = base[name]
        if not sites.files or not before.is_floating_point():
            yield name, before
        else:
            chosen = _statistics_rule(rule) if is_normalization_statistic(name) else rule
            layer = sites.layer(name, before, chosen.needs)
            yield name, add_to_base(name, before, apply_rule(chosen, layer))
        if on_layer:
            on_layer(name)


def _statistics_rule(rule: Rule) -> Rule:
    """Return the rule for running statistics; a factor of task vectors is none of theirs."""
    if not getattr(rule, "robust", False):
        return STATISTICS_RULE
    unscaled: Rule = replace(rule, scale=1.0)  # type: ignore[type-var]
    return unscaled


class _Sites:
    """Reader of one parameter of all sites at a time."""

    def __init__(self, files: Mapping[str, OpenContribution], weights: Mapping[str, int]) -> None:
        self.files = dict(sorted(files.items()))
        self.weights = tuple(weights[site] for site in self.files)
        self.distances: Tensor | None = None

    def layer(self, name: str, base: Tensor, needs: frozenset[str]) -> Layer:
        """Return the parameter, with the statistics that the rule needs where sites have them."""
        statistics = {
            kind: rows for kind in needs if (rows := self._statistic(kind, name)) is not None
        }
        if self.distances is not None:
            statistics["distances"] = self.distances
        vectors = tuple(
            read_task_vector(file, site, name, base.shape) for site, file in self.files.items()
        )
        return Layer(name, base, vectors, self.weights, tuple(self.files), statistics)

    def _statistic(self, kind: str, name: str) -> Float[Tensor, "sites *rest"] | None:
        """Return a statistic of all sites, or None where no site has it.

        None is for layers to which the statistic does not apply.
        """
        key = f"{kind}/{name}"
        lacking = [site for site, file in self.files.items() if key not in file.statistics]
        if len(lacking) == len(self.files):
            return None
        if lacking:
            having = [site for site in self.files if site not in lacking]
            if len(having) < len(lacking):  # who differs from most is at fault
                raise EntryUnsuitable(
                    having[0],
                    f"{having[0]}: the contribution has a statistic '{key}', most others have not. "
                    f"{_remedy(kind)}",
                )
            raise EntryUnsuitable(
                lacking[0],
                f"{lacking[0]}: the contribution has no statistic '{key}', others have. "
                f"{_remedy(kind)}",
            )
        return torch.stack([file.statistic(key) for file in self.files.values()])


def read_task_vector(file: OpenContribution, site: str, name: str, shape: torch.Size) -> Tensor:
    """Read one tensor of a contribution.

    Raises:
        ModelInvalid: It is missing, or has another shape.
    """
    try:
        vector: Tensor = file.task_vector(name)
    except (KeyError, SafetensorError) as error:
        raise EntryInvalid(
            site,
            f"{site}: the contribution lacks the tensor {name}, so it belongs to another network.",
        ) from error
    if vector.shape != shape:
        raise EntryInvalid(
            site,
            f"{site}: {name} has the shape {tuple(vector.shape)}, in the base it is "
            f"{tuple(shape)}.",
        )
    return vector


def _check_statistics(files: Mapping[str, OpenContribution], kind: str) -> None:
    for site, file in files.items():
        if not any(name.startswith(f"{kind}/") for name in file.statistics):
            raise EntryUnsuitable(
                site,
                f"{site}: the contribution holds no {kind} statistics, which this rule needs. "
                f"{_remedy(kind)}",
            )


def _remedy(kind: str) -> str:
    return (
        f"Set strategy.statistics=[{kind}] and let the site contribute again, "
        "or choose another rule."
    )


def _distances(
    sites: _Sites, base: Mapping[str, Tensor], names: Sequence[str]
) -> Float64[Tensor, "sites sites"]:
    """Return squared Euclidean distances between the whole task vectors.

    They are computed from inner products in float64.
    """
    count = len(sites.files)
    products = torch.zeros(count, count, dtype=torch.float64)
    for name in names:
        if base[name].is_floating_point():
            rows = [
                torch.split(row, PIECE // count + 1)
                for row in sites.layer(name, base[name], frozenset()).rows
            ]
            for pieces in zip(*rows, strict=True):
                exact = torch.stack(pieces).double()
                products.addmm_(exact, exact.T)
    squares = products.diagonal()
    return (squares[:, None] + squares[None, :] - 2 * products).clamp_min_(0.0)
