"""Whatever a coordinator, or a model's file, says: a bounded value comes of it, or one sentence."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyclinic.config.compose import instantiate
from polyclinic.config.folders import targets_in
from polyclinic.config.jobs import job_tree, load_job
from polyclinic.config.targets import allowed_targets
from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic.federation.assignment import Assignment
from polyclinic.federation.envelope import make_message
from polyclinic.federation.envelope.content import CONFIG, weights_to_record
from polyclinic.federation.records import Order, order_from_message, order_to_config
from polyclinic.learning.model_file import load_model
from polyclinic.learning.state_dict import save_state
from polyclinic_client.site.limits import Limits
from polyclinic_strategies.merging.messages import (
    ask_for_contribution,
    read_assignment,
    read_base,
)
from polyclinic_strategies.refinement.messages import read_question, read_refined

FAST = settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NAMES = {"model": "unet_2d", "data": "brain_tissue_slices", "training": "default"}
ORDER = Order("run", "arm", 0, 3, "none", "1", NAMES, {"training.epochs": 2}, {"model": "d" * 64})
ASSIGNMENT = Assignment(ORDER, "b" * 64, "t", "e" * 64, ("correlation",))
HONEST = {
    **dict(ask_for_contribution(ASSIGNMENT, [], 7).content[CONFIG]),
    **dict(order_to_config(ORDER)),
    "server-round": 1,
    "number": 3,
}
KEYS = [
    *HONEST, "proximal-mu", "restoration", "restoration-steps", "set.model.dropout",
    "set.model.channels", "set.model[_target_]", "set.data.patch", "name.x", "plugin.y", "digest.z",
]  # fmt: skip
TARGETS = sorted(allowed_targets())

words = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["..", "../x", "/etc", "${oc.env:HOME}", "${oc.decode:1}", "\x1b[2J", "a" * 5000, *TARGETS]
    ),
)
numbers = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.sampled_from([0, 1, -1, 10**6, 10**9, math.nan, math.inf]),
)
scalars = st.one_of(numbers, st.booleans(), words, st.binary(max_size=8))
lists = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5),
    st.lists(st.floats(), min_size=1, max_size=5),
    st.lists(words, min_size=1, max_size=300),
    st.lists(st.booleans(), min_size=1, max_size=5),
)
pieces = st.one_of(
    st.sampled_from(
        [
            "model",
            "data",
            "training",
            "optimizer",
            "loss",
            "intensity",
            "augment",
            "channels",
            "norm",
            "patch",
            "lr",
            "epochs",
            "0",
            "_target_",
            "[_target_]",
            "[0]",
            "[_args_]",
            "",
        ]
    ),
    st.text(max_size=6),
)
keys = st.lists(pieces, min_size=1, max_size=4).map(".".join)
trees = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), words),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(keys, words), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def questions(draw: st.DrawFn) -> dict[str, Any]:
    """An honest question with a few scalars that are others, or gone."""
    found: dict[str, Any] = dict(HONEST)
    for key in draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=4)):
        found.pop(key, None)
        if draw(st.booleans()):
            found[key] = draw(st.one_of(scalars, lists))
    if draw(st.integers(0, 9)) == 0:
        found[f"set.{draw(keys)}"] = draw(scalars)
    return found


@pytest.mark.parametrize(
    "read", [order_from_message, read_assignment, read_base, read_question, read_refined]
)
@FAST
@given(config=questions())
def test_a_question_is_read_within_bounds_or_refused_in_words(
    read: Callable[[Any], Any], config: dict[str, Any]
) -> None:
    content = RecordDict(
        {"arrays": weights_to_record(torch.zeros(2)), CONFIG: ConfigRecord(config)}
    )
    message = make_message(content, 7, "query.collect")
    try:
        found = read(message)
    except ConfigError as error:
        assert 10 < len(str(error)) < 2000
        return
    order = found if isinstance(found, Order) else found[0]
    order = order.order if isinstance(order, Assignment) else order
    assert "/" not in order.run + order.arm and ".." not in (order.run, order.arm)
    assert 1 <= order.rounds <= 10**6 and 0 <= order.seed < 2**31
    assert math.isfinite(order.proximal_mu)
    assert not any("_target_" in key or "[" in key for key in order.settings)


@FAST
@given(key=keys, value=st.one_of(scalars, lists))
def test_no_setting_makes_another_target(key: str, value: Any) -> None:
    honest = load_job(NAMES, {})
    try:
        job = load_job(NAMES, {key: value})
        Limits().check(ORDER, job)
    except (ConfigError, ModelInvalid) as error:
        assert str(error)
        return
    except Exception as error:
        assert type(error).__name__ == "LimitExceeded"
        return
    targets = list(targets_in(job_tree(job)))
    assert targets == list(targets_in(job_tree(honest)))
    assert set(targets) <= allowed_targets()


@FAST
@given(tree=st.dictionaries(keys, trees, max_size=3))
def test_what_is_made_inside_a_node_is_on_the_list(tree: dict[str, Any]) -> None:
    part = {"_target_": "torch.nn.CrossEntropyLoss", "label_smoothing": 0.0, "inner": tree}
    hidden = [target for target in targets_in(tree) if target not in allowed_targets()]
    with pytest.raises(ConfigError) as caught:
        instantiate(part)  # it takes no `inner`
    assert not hidden or "_target_" in str(caught.value)


cards = st.fixed_dictionaries(
    {},
    optional={
        "names": st.one_of(st.just(NAMES), trees),
        "settings": st.one_of(st.dictionaries(keys, st.one_of(scalars, trees), max_size=3), trees),
        "task": trees,
        "labels": trees,
        "run": trees,
    },
)


@FAST
@given(card=st.one_of(cards, trees))
def test_a_models_file_is_a_network_or_invalid(card: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    text = json.dumps(card, default=repr)
    save_state({"weight": torch.zeros(3)}, path, {"polyclinic": text})
    with pytest.raises(ModelInvalid) as caught:
        load_model(path)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "text",
    ["", "7", "[]", "null", "9" * 5000, "[" * 100_000, '{"names": {}, "settings": 1}', "{" * 9],
)
def test_a_models_file_that_says_nonsense_is_invalid(text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_state({"weight": torch.zeros(3)}, path, {"polyclinic": text})
    with pytest.raises(ModelInvalid):
        load_model(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": {"model.channels": [500, 500, 500, 500]}}, "parameters"),
        ({"settings": {"model[_target_]": "monai.networks.nets.SegResNet"}}, "from afar"),
        ({"names": {**NAMES, "model": "../unet"}}, "not a name"),
        ({"names": {**NAMES, "model": "universal"}, "task": {"kind": "x"}}, "kind"),
    ],
)
def test_a_models_file_that_claims_more_than_it_holds_is_invalid(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    text = json.dumps({"names": NAMES, "settings": {}, **changes})
    save_state({"weight": torch.zeros(3)}, path, {"polyclinic": text})
    with pytest.raises(ModelInvalid, match=said):
        load_model(path)
