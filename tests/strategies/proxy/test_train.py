"""`train-proxy` from a cohort to its files.

Once in full with tiny settings, then taken up again, and what it refuses.
"""

import io
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from polyclinic.errors import ConfigError, DatasetInvalid
from polyclinic.learning.state_dict import load_state
from polyclinic_demos.cohorts import writing
from polyclinic_demos.cohorts.visits import T1, Visits, write_visits
from polyclinic_server.segmentation.model import SegmentationModel
from polyclinic_strategies.proxy import cases as cases_module
from polyclinic_strategies.proxy import commands
from polyclinic_strategies.proxy import train as proxy_training
from polyclinic_strategies.proxy.attacks import attack_suite
from polyclinic_strategies.proxy.attacks.contest import Attacker, AttackTraining, Contest
from polyclinic_strategies.proxy.attacks.siamese import SIAMESE, ProxyAndProxy
from polyclinic_strategies.proxy.frame import registration
from polyclinic_strategies.proxy.generator import NoField, RandomField
from polyclinic_strategies.proxy.parts import GENERATOR, SEGMENTER
from polyclinic_strategies.proxy.protection import Protection
from polyclinic_strategies.proxy.report.page import write_proxy_report
from polyclinic_strategies.proxy.report.state import read_proxy
from polyclinic_strategies.proxy.train import Orders, Others, train_proxy
from tests.strategies.proxy.strangers import cases

COARSE = replace(T1, voxel_mm=(5.0, 5.0, 5.0))
TINY = (
    "model.spacing_mm=4.0",
    "model.channels=[4,4,4]",
    "model.segmenter.channels=[4,8]",
    "model.segmenter.strides=[2]",
    "training.proxy.steps=2",
    "training.proxy.more_segmentation=1",
    "training.proxy.polish=1",
    "training.proxy.people=2",
    "training.proxy.patch=[24,24,24]",
    "data.patch=[40,48,40]",
)
NEVER = "must not be called again"


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two people each to train with, whom attackers know, and to be recognized.

    And such people with lesions.
    """
    folder = tmp_path_factory.mktemp("cohorts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "_WORTH_A_PROCESS", 99)
        people = write_visits(folder / "visits", COARSE, Visits((2, 2, 2)), seed=1)
        return people, write_visits(
            folder / "lesions", COARSE, Visits((0, 2, 2), lesions=2), seed=1
        )


@pytest.fixture(scope="module")
def tiny() -> Iterator[None]:
    """Attackers of a few steps, all of them at the first attack alone, one strength for the curve,
    and a quick registration.
    """
    real, made = attack_suite.attack, []

    def attack(contest: Contest, on_attack: Any, attackers: Sequence[Attacker]) -> Any:
        made.append(1)
        brief = replace(contest.settings, siamese_steps=2, registration_steps=2)
        chosen = attackers if len(made) == 1 else (ProxyAndProxy(),)
        return real(replace(contest, settings=brief), on_attack, chosen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attack_suite, "attack", attack)
        patch.setattr(attack_suite, "STRENGTHS_MM", (4.0,))
        # nobody tilts the head, and all affines are right
        patch.setattr(registration, "TILTS", registration.TILTS[:1])
        patch.setattr(registration, "TURNS", registration.TURNS[:1])
        yield


def order(
    cohorts: tuple[Path, Path],
    out: Path,
    *overrides: str,
    base: tuple[str, ...] = TINY,
    **changes: Any,
) -> Orders:
    people, lesions = cohorts
    orders = Orders(
        (people,),
        out,
        (*base, *overrides),
        (replace(Others.with_lesions(lesions), scored=True),),
        restarts=1,
        keys=2,
        scored=1,
    )
    return replace(orders, **changes)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(scope="module")
def out(cohorts: tuple[Path, Path], tiny: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    console = quiet()
    found = train_proxy(order(cohorts, tmp_path_factory.mktemp("results") / "proxy"), console)
    (found / "said.txt").write_text(console.file.getvalue())  # type: ignore[attr-defined]
    return found


def test_the_files_are_what_hospitals_and_the_service_need(out: Path) -> None:
    protection, model = Protection.load(out / GENERATOR), SegmentationModel.load(out / SEGMENTER)
    assert protection.shape == model.shape == (40, 48, 40)
    assert protection.digest == model.digest and protection.labels == model.labels
    assert model.data.patch == (40, 48, 40)
    kept = next((out / "work" / "learned").glob("polish-*.safetensors"))
    trained, _ = load_state(kept)
    assert all(
        torch.equal(trained[f"segmenter.{name}"], weight)
        for name, weight in model.network.state_dict().items()
    )


def test_the_report_is_whole(out: Path) -> None:
    run = read_proxy(out)
    assert (
        run.people == {"training": 2, "attackers": 2, "test": 2}
        and run.visits == 2
        and run.seed == 0
    )
    assert [warp.name for warp in run.warps] == ["originals", "random", "learned"]
    assert [len(warp.attacks) for warp in run.warps] == [13, 2, 2] and all(
        len(warp.attacks[0].attempts) == 1 for warp in run.warps
    )
    assert [warp.round_trip is not None and warp.round_trip > 0.85 for warp in run.warps] == [
        True
    ] * 3
    originals, random, learned = run.warps
    assert originals.strength_mm == 0 and originals.folded == 0
    assert random.strength_mm == pytest.approx(learned.strength_mm, rel=0.01)
    assert (
        set(run.direct.dice) == set(learned.dice) == {"CSF", "grey matter", "white matter", "mean"}
        and not random.dice
    )
    assert {point.arm for point in run.curve} == {"originals", "random", "learned"} and len(
        run.curve
    ) == 4
    assert len(run.extras) == 1 and len(run.extras[0].attacks) == 2
    plain = json.loads((out / "proxy.json").read_text())
    assert len(plain["one_key"]["attackers"]) == 2
    scored = plain["extra"][0]
    assert 0 <= scored["dice"]["mean"] <= 1 and scored["direct"]["cases"] == 1
    assert run.losses["segmentation"][-1][0] == 3
    assert [picture.file for picture in run.pictures] == ["004_0.png"] and (
        out / "pictures" / "004_0.png"
    ).stat().st_size > 1000
    assert write_proxy_report(out).stat().st_size > 10_000


def test_it_says_what_it_is_doing(out: Path) -> None:
    said = (out / "said.txt").read_text()
    for words in (
        "training: 4 of 4 scans",
        "learned: step 3 of 3",
        "direct: step 3 of 3",
        "through its proxy: Dice",
        SIAMESE,
        "lesions",
    ):
        assert words in said, said


def leaves(row: dict[str, Any]) -> dict[str, Any]:
    """Every value of a row by its path; the Dice score is measured on fewer people here."""
    flat: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        children = (
            value.items()
            if isinstance(value, dict)
            else enumerate(value)
            if isinstance(value, list)
            else None
        )
        if children is None:
            flat[path] = value
            return
        for key, child in children:
            walk(child, f"{path}/{key}")

    walk({key: value for key, value in row.items() if key != "dice"}, "")
    return flat


def test_a_second_call_takes_everything_up(
    cohorts: tuple[Path, Path], out: Path, monkeypatch: pytest.MonkeyPatch, tiny: None
) -> None:
    before = json.loads((out / "proxy.json").read_text())
    weights = (out / GENERATOR).read_bytes(), (out / SEGMENTER).read_bytes()

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError(NEVER)

    for name in (
        "polyclinic_strategies.proxy.cases.canonicalize",
        "polyclinic_strategies.proxy.train.Trainer",
        "polyclinic_strategies.proxy.attacks.attack_suite.attack",
    ):
        monkeypatch.setattr(name, never)
    console = quiet()
    train_proxy(order(cohorts, out), console)
    after = json.loads((out / "proxy.json").read_text())
    for part in ("arms", "curve", "extra", "losses"):
        for one, other in zip(before[part], after[part], strict=True):
            # what is measured anew may differ in its last bits
            ours, theirs = leaves(one), leaves(other)
            assert ours.keys() == theirs.keys()
            for path, value in ours.items():
                same = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
                assert theirs[path] == same, path
    assert ((out / GENERATOR).read_bytes(), (out / SEGMENTER).read_bytes()) == weights
    assert "trained before" in console.file.getvalue()  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match=NEVER):
        # other settings are trained anew
        train_proxy(order(cohorts, out, "training.learning_rate=0.001"), quiet())


def test_people_who_came_once_are_refused(tmp_path: Path, cohorts: tuple[Path, Path]) -> None:
    shutil.copytree(cohorts[0], tmp_path, dirs_exist_ok=True)
    tree = json.loads((cohorts[0] / "dataset.json").read_text())
    for split, change in (("training", {"subject": "one"}), ("validation", {}), ("test", {})):
        changed = {
            **tree,
            split: [
                {**case, **change} if change else {**case, "subject": ""} for case in tree[split]
            ],
        }
        changed = (
            changed
            if change
            else {
                **changed,
                split: [
                    {k: v for k, v in case.items() if k != "subject"} for case in changed[split]
                ],
            }
        )
        (tmp_path / "dataset.json").write_text(json.dumps(changed))
        with pytest.raises(DatasetInvalid, match=f"'{split}'"):
            cases_module._prepare_split(
                [
                    case
                    for case in proxy_training.read_dataset(tmp_path).cases
                    if case.split == split
                ],
                split,
                None,
                tmp_path,
                print,  # type: ignore[arg-type]
            )
    with pytest.raises(DatasetInvalid, match="'test'"):
        cases_module._prepare_split([], "test", None, tmp_path, print)  # type: ignore[arg-type]


def test_other_labels_and_other_trainings_are_refused(
    tmp_path: Path, cohorts: tuple[Path, Path]
) -> None:
    with pytest.raises(DatasetInvalid, match="labels"):
        train_proxy(order(cohorts, tmp_path, "data.labels=[background,brain]"), quiet())
    with pytest.raises(ConfigError, match="training=proxy"):
        train_proxy(order(cohorts, tmp_path, "training=default", base=()), quiet())
    assert not list(tmp_path.iterdir())


def test_the_fault_of_another_cohort_is_said_before_the_training(
    tmp_path: Path, cohorts: tuple[Path, Path], monkeypatch: Any
) -> None:
    monkeypatch.setattr("polyclinic_strategies.proxy.train.Trainer", None)
    for folder in (tmp_path / "nowhere", tmp_path):
        (tmp_path / "dataset.json").write_text(
            '{"modality": {"0": "T1"}, "labels": {"0": "background", "1": "tumour"}, "test": []}'
        )
        with pytest.raises(DatasetInvalid):
            train_proxy(
                order(cohorts, tmp_path / "out", others=(Others.with_lesions(folder),)), quiet()
            )
    assert not (tmp_path / "out").exists()


def test_two_hospitals_may_call_different_people_the_same(cohorts: tuple[Path, Path]) -> None:
    site = proxy_training.read_dataset(cohorts[0])
    renamed = replace(site, folder=site.folder.parent / "elsewhere")
    named = {cases_module._named(site.test[0], each).subject for each in (site, renamed)}
    assert named == {"visits/004", "elsewhere/004"}
    assert cases_module._named(replace(site.test[0], subject=""), site).subject == ""


def test_the_command_tells_folders_from_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    heard: list[Orders] = []
    monkeypatch.setattr(proxy_training, "train_proxy", lambda orders, console: heard.append(orders))
    monkeypatch.setattr(commands, "show_result", lambda out, console: None)
    commands.train_proxy(
        ["seed=3", "data.patch=[8,8,8]"],
        [Path("a"), Path("b"), Path("d")],
        [Path("c")],
        tmp_path,
        2,
        4,
        5,
    )
    (orders,) = heard
    assert orders.folders == (Path("a"), Path("b"), Path("d")) and orders.overrides == (
        "seed=3",
        "data.patch=[8,8,8]",
    )
    assert [other.folder for other in orders.others] == [Path("c")]
    assert (orders.out, orders.restarts, orders.keys, orders.scored) == (tmp_path, 2, 4, 5)
    for nothing in (None, ["seed=3"]):
        with pytest.raises(ConfigError, match="--data FOLDER"):
            commands.train_proxy(nothing, out=tmp_path)


def test_attacks_are_named_by_what_decides_them(
    out: Path, cohorts: tuple[Path, Path], tmp_path: Path
) -> None:
    protection = Protection.load(out / GENERATOR)
    suite = attack_suite.AttackSuite(cases(2), cases(2), protection, 1, 2, tmp_path, print)
    once, twice = AttackTraining(restarts=1), AttackTraining(restarts=2)
    given = [
        (NoField(), cases(2), once),
        (RandomField(1.0), cases(2), once),
        (RandomField(2.0), cases(2), once),
        (protection.field, cases(2), once),
        (NoField(), cases(3), once),
        (NoField(), cases(2, apart=0.5), once),
        (NoField(), cases(2), twice),
    ]
    marks = [suite._mark(field, known, cases(2), settings) for field, known, settings in given]
    marks.append(suite._mark(NoField(), cases(2), cases(2), once, ["keys agree"]))
    assert (
        len(set(marks)) == len(marks)
        and suite._mark(NoField(), cases(2), cases(2), once) == marks[0]
    )
