"""Rules as `conf/strategy/merging/` configures them, with the candidates that hospitals score."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from polyclinic.config.compose import instantiate, list_names, load_config
from polyclinic.config.schemas import Part
from polyclinic.errors import ConfigError, UnknownName
from polyclinic_strategies.merging.arithmetic.layer import Rule

GROUP = "merging/"


def make_rules(rule: Part, candidates: Mapping[str, Sequence[float]]) -> list[Rule]:
    """Make the rule as configured, then its other candidates.

    The candidates are all combinations of the values given for its parameters.

    Args:
        rule: A node with `_target_` in `polyclinic_strategies.merging.rules`.
        candidates: Parameter of the rule to values.

    Raises:
        ConfigError: The rule has no such parameter, or a value is impossible.
    """
    try:
        configured: Rule = instantiate(rule)
        grid = itertools.product(
            *([(name, value) for value in values] for name, values in sorted(candidates.items()))
        )
        others = [instantiate({**rule, **dict(choice)}) for choice in grid] if candidates else []
    except ValueError as error:
        raise ConfigError(f"strategy.rule: {error}.") from error
    return [configured, *(other for other in others if other != configured)]


def rules_of(strategy: Mapping[str, Any]) -> list[Rule]:
    """Make all rules of a strategy's node: its own with candidates, then those it names beside it.

    Args:
        strategy: As in `conf/strategy/merging/`: `rule`, `candidates`, and `alternatives`, name of
            another file there to candidates (none: the file's own).

    Raises:
        UnknownName: There is no such file.
        ConfigError: A rule has no such parameter, or a value is impossible.
    """
    rules = make_rules(strategy["rule"], strategy.get("candidates") or {})
    for name, candidates in (strategy.get("alternatives") or {}).items():
        named = rule_settings(name)
        rules += make_rules(named["rule"], candidates or named["candidates"])
    return [rule for number, rule in enumerate(rules) if rule not in rules[:number]]


def single_rule(strategy: Mapping[str, Any]) -> Rule:
    """Make the one rule of a strategy's node, where no hospital scores candidates.

    Raises:
        ConfigError: It has no such parameter, a value is impossible, or it is several rules.
    """
    if strategy.get("alternatives"):
        raise ConfigError(
            f"{strategy['title']}: hospitals choose among several rules, and there are none here. "
            "Name one of them, such as ties; 'polyclinic-server models list' has what was chosen."
        )
    return make_rules(strategy["rule"], {})[0]


def rule_settings(name: str) -> Mapping[str, Any]:
    """Return a file of `conf/strategy/merging/`, composed.

    Raises:
        UnknownName: There is no such file.
    """
    known = [each.removeprefix(GROUP) for each in list_names("strategy") if each.startswith(GROUP)]
    if name not in known:
        raise UnknownName("rule", name, known)
    return load_config([f"strategy={GROUP}{name}"]).strategy


def describe_rule(rule: Rule) -> dict[str, Any]:
    """Return a rule's name and parameters, as a publication keeps them."""
    return {"rule": type(rule).__name__, "parameters": asdict(rule)}  # type: ignore[call-overload]
