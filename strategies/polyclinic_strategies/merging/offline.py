"""`polyclinic-server merge`: merge the contributions of a ledger by any rule, without hospitals."""

import json
from collections.abc import Sequence
from pathlib import Path

from polyclinic.config.compose import load_config
from polyclinic.config.schemas import Config
from polyclinic.errors import ConfigError
from polyclinic.learning.state_dict import save_state
from polyclinic.store.ledger import Entry, Ledger
from polyclinic_strategies.merging.arithmetic.configured import (
    describe_rule,
    rule_settings,
    single_rule,
)
from polyclinic_strategies.merging.publisher import Publisher

GROUP = "merging/"  # prefix of the rules' names in conf/strategy/
OF_STRATEGY = ("max_staleness", "staleness_discount")


def merge_offline(
    rule: str, parameters: Sequence[str], ledger: Path, to: Path
) -> tuple[str, list[Entry]]:
    """Merge the contributions of a ledger and write the model; the ledger is not changed.

    Args:
        rule: Name of a rule in `conf/strategy/merging/`.
        parameters: Parameters of the rule as PARAMETER=VALUE; also `max_staleness` and
            `staleness_discount` of the strategy.
        ledger: Folder of the ledger.
        to: The safetensors file to write; `polyclinic-client predict` takes it.

    Returns:
        The rule with its parameters in words, and the contributions that were merged.

    Raises:
        ConfigError: There is no such rule or parameter.
        LedgerError: There is no ledger, or it holds no contribution to its current base.
    """
    config = _load_rule(rule, parameters)
    strategy = config.strategy
    with Ledger.open(ledger, create=False) as opened:
        publisher = Publisher(opened, strategy["max_staleness"], strategy["staleness_discount"])
        made = single_rule(strategy)
        entries = publisher.entries()
        state = publisher.merge(made, entries)
        recipe = describe_rule(made)
        described = {**describe_base(opened), "recipe": recipe, "arm": f"merging-{rule}"}
        save_state(state, to, {"polyclinic": json.dumps(described)})
    words = ", ".join(
        f"{key}={value}" for key, value in recipe["parameters"].items() if key != "fraction_bits"
    )
    return f"{recipe['rule']}({words})", entries


def _load_rule(rule: str, parameters: Sequence[str]) -> Config:
    given = dict(_split(text) for text in parameters)
    rule_settings(rule)
    settings = [f"{_setting(key)}={value}" for key, value in given.items()]
    return load_config([f"strategy={GROUP}{rule}", *settings])


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"'{text}' is not of the form PARAMETER=VALUE, for example keep=0.3.")
    return key, value


def _setting(key: str) -> str:
    """Return the full name of a setting, which belongs to the strategy or to its rule."""
    group = "strategy" if key in OF_STRATEGY else "strategy.rule"
    return f"{group}.{key}"


def describe_base(ledger: Ledger) -> dict[str, object]:
    """Return the metadata of the newest base, from which its network can be built again."""
    notes = ledger.base_notes()
    return dict(notes[-1][1]) if notes else {}
