"""A rule applied to a layer: whatever goes wrong in it is one contribution's fault, or the rule's.

Rules may come from other packages. One that raises is tried again without each site in turn.
"""

from dataclasses import replace

from torch import Tensor

from polyclinic.errors import ConfigError, PolyclinicError
from polyclinic.system.faults import is_out_of_memory
from polyclinic_strategies.merging.arithmetic.layer import Layer, Rule
from polyclinic_strategies.merging.intake.blame import EntryUnsuitable

FEWEST_SITES = 3  # of two sites, each could be the one at fault


def apply_rule(rule: Rule, layer: Layer) -> Tensor:
    """Return what a rule makes of a layer.

    Raises:
        EntryUnsuitable: The rule fails with one contribution, and does not without it.
        ConfigError: The rule fails, and no single contribution is the reason.
        MemoryError, RuntimeError: There is not enough memory.
    """
    try:
        return _applied(rule, layer)
    except Exception as error:
        if isinstance(error, PolyclinicError) or is_out_of_memory(error):
            raise
        failed = error
    name, said = type(rule).__name__, f"{type(failed).__name__}: {str(failed)[:200]}"
    if site := _culprit(rule, layer):
        raise EntryUnsuitable(
            site,
            f"{site}: the rule {name} fails with this contribution at {layer.name} ({said}), and "
            "does not without it. Let the site contribute again, or choose another rule.",
        ) from failed
    raise ConfigError(
        f"The rule {name} fails at {layer.name} ({said}), and no single contribution is the "
        "reason. Choose another rule, or ask its authors."
    ) from failed


def _applied(rule: Rule, layer: Layer) -> Tensor:
    merged = rule(layer)
    if not isinstance(merged, Tensor) or merged.shape != layer.base.shape:
        raise ValueError(f"it returned no tensor of the shape {tuple(layer.base.shape)}")
    return merged


def _culprit(rule: Rule, layer: Layer) -> str:
    """Return the only site without which the rule does not fail; empty if there is no such one."""
    sites = range(len(layer.keys))
    if len(sites) < FEWEST_SITES:
        return ""
    found = [layer.keys[site] for site in sites if _works(rule, _without(layer, site))]
    return found[0] if len(found) == 1 else ""


def _works(rule: Rule, layer: Layer) -> bool:
    try:
        _applied(rule, layer)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return False
    return True


def _without(layer: Layer, site: int) -> Layer:
    kept = [each for each in range(len(layer.keys)) if each != site]
    return replace(
        layer,
        vectors=tuple(layer.vectors[each] for each in kept),
        weights=tuple(layer.weights[each] for each in kept),
        keys=tuple(layer.keys[each] for each in kept),
        statistics={
            kind: rows[kept][:, kept] if kind == "distances" else rows[kept]
            for kind, rows in layer.statistics.items()
        },
    )
