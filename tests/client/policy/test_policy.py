"""The hospital's policy: one file, read within bounds, and stricter than whoever asks."""

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.errors import NotAllowed
from polyclinic_client.policy.asked import SECURE_SUMS, Asked, read_asked
from polyclinic_client.policy.decisions import decide, decided_at, decision_on, note_asked, requests
from polyclinic_client.policy.gate import check_names, check_protections, enter, leave
from polyclinic_client.policy.policy import (
    EARLIER,
    FILE,
    LARGER_IS_STRICTER,
    SECOND,
    Policy,
    PolicyDamaged,
    keep_policy,
    read_policy,
)

ASKED = Asked("run", "arm", "merging", 3, names={"model": "unet", "data": "brain_tissue"})


def test_a_hospital_that_says_nothing_has_the_defaults(tmp_path: Path) -> None:
    assert read_policy(tmp_path) == Policy()
    keep_policy(tmp_path, epochs=None)
    assert not (tmp_path / FILE).exists()


def test_a_policy_is_read_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(
        "# ours\nstrategies: [averaging]\nmodels:\n  - unet\n  - unet_2d\ntasks: []\n"
        "approval: true\nepsilon: 8\nmin_subjects: 20\nhours: 1.5\n"
    )
    assert read_policy(tmp_path) == Policy(
        strategies=("averaging",), models=("unet", "unet_2d"), tasks=(), approval=True,
        epsilon=8.0, min_subjects=20, hours=1.5,
    )  # fmt: skip


def test_options_change_their_own_lines_and_keep_the_others(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("# ours\nmodels:\n  - unet\nepochs: 7  # few\n")
    keep_policy(tmp_path, epochs=9, min_subjects=4)
    text = (tmp_path / FILE).read_text()
    assert "# ours" in text and "  - unet" in text
    assert read_policy(tmp_path) == Policy(models=("unet",), epochs=9, min_subjects=4)
    keep_policy(tmp_path, hours=2.0)
    assert read_policy(tmp_path).epochs == 9


def test_what_earlier_versions_kept_counts_until_it_is_said_again(tmp_path: Path) -> None:
    (tmp_path / "limits.json").write_text('{"epochs": 7, "hours": 3}')
    (tmp_path / "release.json").write_text('{"min_subjects": 9}')
    assert read_policy(tmp_path) == Policy(epochs=7, hours=3.0, min_subjects=9)
    keep_policy(tmp_path, epochs=8)
    assert not any((tmp_path / name).exists() for name in EARLIER)
    assert read_policy(tmp_path) == Policy(epochs=8, hours=3.0, min_subjects=9)


DAMAGED = {
    "half a list": "models: [unet",
    "no names": "- 1\n- 2\n",
    "a word": "everything",
    "unknown": "epoch: 3",
    "twice": "epochs: 3\nepochs: 5",
    "bounds": "epochs: 0",
    "no number": "hours: .nan",
    "a word for a truth": 'approval: "no"',
    "a number for a truth": "approval: 1",
    "a reference": "models: &a [unet]\ntasks: *a",
    "a tag": "models: !!python/object/apply:os.system [ls]",
    "deep": "models: " + "[" * 3000,
    "long": "# " + "x" * 70_000,
    "bytes": "\x00\x01",
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_policy_lets_nothing_in_and_nothing_out(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    for attempt in (
        lambda: read_policy(tmp_path),
        lambda: enter(tmp_path, ASKED, trains=True),
        lambda: leave(tmp_path, ASKED, "train"),
        lambda: keep_policy(tmp_path, min_subjects=5),
    ):
        with pytest.raises(PolicyDamaged, match=f"{FILE} cannot be used.*nothing leaves"):
            attempt()
    assert not PolicyDamaged.shareable
    assert (tmp_path / FILE).read_text() == text


def test_a_policy_that_cannot_be_opened_lets_nothing_out(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(PolicyDamaged, match="nothing leaves"):
        leave(tmp_path, ASKED, "train")


def test_a_second_policy_can_only_be_stricter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECOND, str(tmp_path / "officer.yaml"))
    with pytest.raises(PolicyDamaged, match=r"officer\.yaml.*not there"):
        read_policy(tmp_path)
    (tmp_path / "officer.yaml").write_text("epochs: 5\nmin_subjects: 10\nmodels: [unet, unet_2d]\n")
    keep_policy(tmp_path, epochs=50, min_subjects=20)
    (tmp_path / FILE).write_text((tmp_path / FILE).read_text() + "models: [unet, dynunet]\n")
    assert read_policy(tmp_path) == Policy(epochs=5, min_subjects=20, models=("unet",))


NAMES = st.none() | st.lists(st.sampled_from("abcde"), max_size=5, unique=True).map(tuple)
VALUES = {
    **dict.fromkeys(("strategies", "models", "tasks", "statistics"), NAMES),
    **dict.fromkeys(
        ("approval", "secure_sums", "imprint_guard", "hide_epsilon", "hide_machine"), st.booleans()
    ),
    **dict.fromkeys(
        ("epsilon", "epsilon_budget", "memory_gb", "cache_gb", "disk_gb"),
        st.none() | st.floats(0.1, 100.0),
    ),
    "min_subjects": st.integers(1, 100),
    "noise_multiplier": st.floats(0.0, 10.0),
    "delta": st.floats(1e-9, 0.1),
    "epochs": st.integers(1, 1000),
    "hours": st.floats(0.1, 100.0),
    "releases": st.integers(0, 1000),
}
POLICIES = st.builds(Policy, **VALUES)


def test_every_field_is_drawn() -> None:
    assert set(VALUES) == {field.name for field in dataclasses.fields(Policy)}


@settings(max_examples=200, deadline=None)
@given(POLICIES, POLICIES)
def test_the_stricter_side_wins_in_every_field(ours: Policy, theirs: Policy) -> None:
    both = ours.strictest(theirs)
    assert both == both.strictest(ours) == both.strictest(theirs)
    for field in dataclasses.fields(Policy):
        one, other = getattr(ours, field.name), getattr(theirs, field.name)
        found = getattr(both, field.name)
        if isinstance(one, bool):
            assert found == (one or other)
        elif isinstance(one, tuple) and isinstance(other, tuple):
            assert set(found) == set(one) & set(other)
        elif one is None or other is None:
            assert found == (other if one is None else one)
        else:
            chosen = max if field.name in LARGER_IS_STRICTER else min
            assert found == chosen(one, other)


def test_what_is_not_in_a_list_is_refused_by_name() -> None:
    for field, word in (("strategies", "merging"), ("models", "unet"), ("tasks", "brain_tissue")):
        check_names(Policy(**{field: (word,)}), ASKED)
        with pytest.raises(NotAllowed, match=f"'{word}'.*allows other"):
            check_names(Policy(**{field: ("other",)}), ASKED)
    with pytest.raises(NotAllowed, match="allows none"):
        check_names(Policy(statistics=()), dataclasses.replace(ASKED, statistics=("histogram",)))


def test_protections_that_are_demanded_must_be_promised() -> None:
    check_protections(Policy(), ASKED)
    safe = dataclasses.replace(ASKED, protections=(SECURE_SUMS,), epsilon=4.0)
    check_protections(Policy(secure_sums=True, epsilon=4.0), safe)
    with pytest.raises(NotAllowed, match="secure sums"):
        check_protections(Policy(secure_sums=True), ASKED)
    for asked in (ASKED, dataclasses.replace(safe, epsilon=4.1)):
        with pytest.raises(NotAllowed, match="epsilon of at most 4"):
            check_protections(Policy(epsilon=4.0), asked)


@pytest.mark.parametrize(
    ("kind", "scalars", "refused"),
    [
        ("train", {}, True),
        ("train", {"sum.masked": True, "summed": True}, True),
        ("train.sum", {"sum.masked": False}, True),
        ("train.sum", {}, True),
        ("train.sum", {"sum.masked": True}, False),
        ("query.offer", {"summed": True}, True),
        ("query.offer", {"sum.masked": True}, False),
        ("query.collect", {"sum.masked": True}, True),
        ("query.collect", {"summed": True}, False),
        ("query.mask", {}, False),
        ("evaluate", {}, False),
    ],
)
def test_a_run_is_held_to_its_promise_of_secure_sums(
    tmp_path: Path, kind: str, scalars: dict[str, bool], refused: bool
) -> None:
    asked = read_asked({"run": "brain", "protections": [SECURE_SUMS], **scalars})
    assert asked.shows_update(kind) == refused
    for held in (
        lambda: enter(tmp_path, asked, trains=True, kind=kind),
        lambda: leave(tmp_path, asked, kind),
    ):
        if refused:
            with pytest.raises(NotAllowed, match="promised secure sums"):
                held()
        else:
            held()
    enter(tmp_path, read_asked({"run": "brain", **scalars}), trains=True, kind=kind)


def test_a_person_approves_refuses_and_changes_their_mind(tmp_path: Path) -> None:
    enter(tmp_path, ASKED, trains=True)  # nobody needs to
    keep_policy(tmp_path, approval=True)
    with pytest.raises(NotAllowed, match="not yet approved"):
        enter(tmp_path, ASKED, trains=True)
    assert [each.decision for each in requests(tmp_path)] == [None]
    decide(tmp_path, "run", approved=True)
    enter(tmp_path, ASKED, trains=True)
    leave(tmp_path, dataclasses.replace(ASKED, round=2), "train")  # the same work
    for change in ({"rounds": 4}, {"settings": {"training.epochs": 9}}, {"method": "averaging"}):
        with pytest.raises(NotAllowed, match="not yet approved"):
            enter(tmp_path, dataclasses.replace(ASKED, **change), trains=True)
    decide(tmp_path, ASKED.digest[:8], approved=False, reason="not before May")
    with pytest.raises(NotAllowed, match="refused the run: not before May"):
        leave(tmp_path, ASKED, "train")
    keep_policy(tmp_path, approval=False)
    with pytest.raises(NotAllowed, match="refused the run"):
        enter(tmp_path, ASKED, trains=True)


def test_a_decision_that_cannot_be_read_is_no_approval(tmp_path: Path) -> None:
    digest = note_asked(tmp_path, ASKED)
    decide(tmp_path, "run", approved=True)
    (tmp_path / "decisions" / f"{digest}.json").write_text('{"approved": 1}')
    with pytest.raises(PolicyDamaged):
        decision_on(tmp_path, digest)
    with pytest.raises(PolicyDamaged):
        leave(tmp_path, ASKED, "train")


def test_what_was_asked_is_told_in_words(tmp_path: Path) -> None:
    note_asked(tmp_path, dataclasses.replace(ASKED, settings={"training.epochs": 9}))
    (request,) = requests(tmp_path)
    said = " ".join(request.asked.words())
    for word in ("merging", "unet", "brain_tissue", "training.epochs=9", "own updates"):
        assert word in said


def test_a_change_of_either_policy_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, second = tmp_path / "state" / FILE, tmp_path / "clinic.yaml"
    own.parent.mkdir()
    assert decided_at(own.parent) == 0
    for moment, path in ((100.0, own), (200.0, second)):
        path.write_text("approval: false\n")
        os.utime(path, (moment, moment))
    assert decided_at(own.parent) == 100
    monkeypatch.setenv(SECOND, str(second))
    assert decided_at(own.parent) == 200
