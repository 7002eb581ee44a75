"""`polyclinic-server merge`: merge what a ledger holds by any rule, without any hospital."""

import json
from collections.abc import Sequence
from pathlib import Path

from polyclinic.config.compose import list_names, load_config
from polyclinic.errors import ConfigError, UnknownName
from polyclinic.learning.state_dict import save_state
from polyclinic.store.ledger import Entry, Ledger
from polyclinic_strategies.merging.publisher import Publisher, describe_rule, make_rules


def merge_offline(
    rule: str, parameters: Sequence[str], ledger: Path, to: Path
) -> tuple[str, list[Entry]]:
    """Recompute a model; the ledger stays as it is.

    Args:
        rule: Name in `conf/strategy/merging/`.
        parameters: The rule's own `parameter=value`; staleness as in `strategy.max_staleness`.
        ledger: The ledger's folder.
        to: The safetensors file to write; `polyclinic-client predict` takes it.

    Returns:
        The rule with its parameters in words, and what was merged.

    Raises:
        ConfigError: There is no such rule or parameter.
        LedgerError: There is no ledger, or it holds no contribution to its current base.
    """
    given = dict(_split(text) for text in parameters)
    known = [
        each.removeprefix("merging/")
        for each in list_names("strategy")
        if each.startswith("merging/")
    ]
    if rule not in known:
        raise UnknownName("rule", rule, known)
    config = load_config(
        [
            f"strategy=merging/{rule}",
            *(f"{_setting(key)}={value}" for key, value in given.items()),
        ]
    )
    with Ledger.open(ledger, create=False) as opened:
        publisher = Publisher(
            opened, config.strategy["max_staleness"], config.strategy["staleness_discount"]
        )
        made = make_rules(config.strategy["rule"], {})[0]
        entries = publisher.entries()
        state = publisher.merge(made, entries)
        recipe = describe_rule(made)
        save_state(
            state,
            to,
            {
                "polyclinic": json.dumps(
                    {**describe_base(opened), "recipe": recipe, "arm": f"merging-{rule}"}
                )
            },
        )
    words = ", ".join(
        f"{key}={value}" for key, value in recipe["parameters"].items() if key != "fraction_bits"
    )
    return f"{recipe['rule']}({words})", entries


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"'{text}' is not of the form PARAMETER=VALUE, for example keep=0.3.")
    return key, value


def _setting(key: str) -> str:
    """`scale` is the rule's, `max_staleness` the strategy's."""
    return (
        f"strategy.{key}"
        if key in ("max_staleness", "staleness_discount")
        else f"strategy.rule.{key}"
    )


def describe_base(ledger: Ledger) -> dict[str, object]:
    """What the base says about its network, so that the merged model can be used."""
    notes = ledger.base_notes()
    return dict(notes[-1][1]) if notes else {}
