"""`polyclinic-server merge`: merge what a ledger holds by any rule, without any hospital."""

import json
from collections.abc import Sequence
from pathlib import Path

from polyclinic.config.compose import list_names, load_config
from polyclinic.errors import ConfigError, UnknownName
from polyclinic.learning.state_dict import save_state
from polyclinic.store.ledger import Entry, Ledger
from polyclinic_strategies.merging.publisher import Publisher, describe_rule, make_rules

OWN = ("rule", "ledger")  # settings of the command itself; every other is the rule's


def merge_offline(settings: Sequence[str], ledger: Path, to: Path) -> tuple[str, list[Entry]]:
    """Recompute a model; the ledger stays as it is.

    Args:
        settings: `rule=NAME` of `conf/strategy/merging/`, and the rule's own `parameter=value`; staleness as in `strategy.max_staleness`.
        ledger: The ledger's folder.
        to: The safetensors file to write; `polyclinic-client predict` takes it.

    Returns:
        The rule with its parameters in words, and what was merged.

    Raises:
        ConfigError: No such rule or parameter.
        LedgerError: There is no ledger, or it holds no contribution to its current base.
    """
    given = dict(_split(text) for text in settings)
    name = given.get("rule", "mean")
    known = [
        each.removeprefix("merging/")
        for each in list_names("strategy")
        if each.startswith("merging/")
    ]
    if name not in known:
        raise UnknownName("rule", name, known)
    parameters = {key: value for key, value in given.items() if key not in OWN}
    config = load_config(
        [
            f"strategy=merging/{name}",
            *(f"{_setting(key)}={value}" for key, value in parameters.items()),
        ]
    )
    with Ledger.open(ledger, create=False) as opened:
        publisher = Publisher(
            opened, config.strategy["max_staleness"], config.strategy["staleness_discount"]
        )
        rule = make_rules(config.strategy["rule"], {})[0]
        entries = publisher.entries()
        state = publisher.merge(rule, entries)
        recipe = describe_rule(rule)
        save_state(
            state,
            to,
            {
                "polyclinic": json.dumps(
                    {**describe_base(opened), "recipe": recipe, "arm": f"merging-{name}"}
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
        raise ConfigError(f"'{text}' is not of the form SETTING=VALUE, for example rule=ties.")
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
