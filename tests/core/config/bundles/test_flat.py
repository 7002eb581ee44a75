"""Trees of plain values as flat lists that travel."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.config.bundles.flat import flatten, unflatten
from polyclinic.config.validation import LONGEST, check_setting
from polyclinic.errors import ConfigError

names = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.from_regex(r"[A-Za-z][A-Za-z_.]{0,10}", fullmatch=True).filter(
        lambda text: text not in ("true", "false")
    ),
)
trees = st.dictionaries(
    names,
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)
FAST = settings(max_examples=100, derandomize=True, deadline=None, database=None)


def test_a_tree_by_hand() -> None:
    tree = {"channels": [16, 32], "norm": ["INSTANCE", {"affine": True}], "act": None, "p": 0.5}
    flat = [
        *("channels.0 16", "channels.1 32", "norm.0 INSTANCE", "norm.1.affine true"),
        *("act (none)", "p 0.5"),
    ]
    assert flatten(tree) == flat
    assert unflatten(flat) == tree


@FAST
@given(tree=trees)
def test_what_was_flattened_comes_back_and_travels(tree: dict[str, Any]) -> None:
    flat = flatten(tree)
    assert unflatten(flat) == tree
    assert check_setting("model.arguments", flat) == flat


@pytest.mark.parametrize(
    "tree",
    [
        {"a": "3"},  # would come back as a number
        {"a": "true"},
        {"a": "$import os"},
        {"a": "x" * 200},
        {"a": float("nan")},
        {"a": 2**63},
        {"_target_": "a"},
        {"0": 1},
        {"a.b": 1},
        {"a": list(range(LONGEST + 1))},
        {"a": [[[[[[[[[1]]]]]]]]]},
    ],
)
def test_what_cannot_travel_is_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        flatten(tree)


@pytest.mark.parametrize(
    "flat",
    [
        ["a"],
        ["a 1", "a 2"],
        ["a 1", "a.b 2"],
        ["a.b 2", "a 1"],
        ["a.1 2"],
        ["a.00 2"],
        ["a.0 2", "a.b 2"],
        ["_target_ x"],
        [" 1"],
        ["a.b.c.d.e.f.g.h.i 1"],
        [f"a 1e{'9' * 3}"],
        ["a 1"] * (LONGEST + 1),
    ],
)
def test_other_lists_are_refused(flat: list[str]) -> None:
    with pytest.raises(ConfigError):
        unflatten(flat)
