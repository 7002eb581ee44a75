"""`polyclinic-server train-proxy`: from a cohort to a generator, a segmenter and a report.

Everybody in the cohort has several visits.

    OUT/generator.safetensors     goes to the hospitals
        segmenter.safetensors     stays with the segmentation service
        proxy.json, report.html   measurements
        work/                     used again after an interruption: canonical scans,
                                  finished trainings, attackers' results
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.jobs import job_settings
from polyclinic.config.schemas import Config
from polyclinic.errors import ConfigError
from polyclinic.imaging.dataset_checks import check_agreement
from polyclinic.imaging.datasets import SiteDataset, read_dataset
from polyclinic.learning.state_dict import load_state, save_state
from polyclinic.system.console import Say, never_silent
from polyclinic.system.durable import write_durably
from polyclinic.system.text import json_digest
from polyclinic_strategies.proxy.attacks.attack_suite import AttackSuite
from polyclinic_strategies.proxy.cases import CanonicalCase, prepare_splits
from polyclinic_strategies.proxy.generator import NoField
from polyclinic_strategies.proxy.measurements import dice_directly, dice_through, draw_pictures
from polyclinic_strategies.proxy.parts import write_parts
from polyclinic_strategies.proxy.protection import Protection
from polyclinic_strategies.proxy.settings import NAME, proxy_settings
from polyclinic_strategies.proxy.system import ProxySystem
from polyclinic_strategies.proxy.training import OnStep, Trainer

DEFAULTS = ("model=proxy", "data=proxy_brain", "training=proxy")
PICTURED = 3  # number of scans with a picture
ONE_KEY = "one key for all visits of a patient"
TELL_EVERY = 25  # steps between two lines of progress


@dataclass(frozen=True)
class Others:
    """A cohort whose people differ by something else than shape, or by more of it.

    Attributes:
        title: Its name in the report.
        note: What is said of it.
        folder: The cohort.
        scored: Whether the Dice is measured, too; its test cases then have labels.
    """

    title: str
    note: str
    folder: Path
    scored: bool = False

    @classmethod
    def with_lesions(cls, folder: Path) -> "Others":
        """Describe people who have lesions at places of their own."""
        note = (
            "A warp moves a lesion and does not remove it: "
            "where it lies in the anatomy stays to be seen."
        )
        return cls("lesions: an identity that is not shape", note, folder)


@dataclass(frozen=True)
class Orders:
    """Arguments of a call.

    Attributes:
        folders: Hospitals' folders; their dataset.json name each case's subject. Training cases
            train; validation cases are the people that attackers know, test cases the people whom
            they try to recognize.
        out: Folder for all results.
        overrides: Settings.
        others: Cohorts of another kind, to attack as well; they need people that attackers know and
            people to be recognized.
        restarts: Number of trainings of every attacker.
        keys: Number of proxies of every visit, for attackers to train on and to average.
        scored: Number of test scans that are segmented.
        brief: Whether attackers are short and few, for a demo.
    """

    folders: tuple[Path, ...]
    out: Path
    overrides: tuple[str, ...] = ()
    others: tuple["Others", ...] = ()
    restarts: int = 3
    keys: int = 4
    scored: int = 8
    brief: bool = False


@dataclass(frozen=True, eq=False)
class People:
    """Canonical scans by their use."""

    training: list[CanonicalCase]
    known: list[CanonicalCase]
    test: list[CanonicalCase]


def train_proxy(orders: Orders, console: Console) -> Path:
    """Train, measure, and write everything; return the folder of results.

    Raises:
        ConfigError: A setting is wrong.
        DatasetInvalid: People came only once, or the labels differ from the settings.
        DataError: A faulty scan, by its type.
    """
    start = time.time()
    config = load_config([*DEFAULTS, *orders.overrides])
    proxy_settings(config.training)  # refuses another training before anything is read
    cohorts = _read_cohorts(orders, config)
    with never_silent(lambda text: console.print(text, markup=False)) as say:
        report = _train_and_measure(orders, config, *cohorts, say)
    report["seconds"] = time.time() - start
    write_durably(orders.out / "proxy.json", json.dumps(report, indent=1))
    return orders.out


def _train_and_measure(
    orders: Orders,
    config: Config,
    sites: list[SiteDataset],
    others: list[tuple[Others, SiteDataset]],
    say: Say,
) -> dict[str, Any]:
    """Return the report."""
    work = orders.out / "work"
    prepared = prepare_splits(sites, config, work, say, ("training", "validation", "test"))
    people = People(prepared["training"], prepared["validation"], prepared["test"])
    learned, losses = _train(config, people.training, work / "learned", say)
    _, settings = job_settings(config)
    protection = write_parts(learned, config.data.labels, settings, orders.out)
    direct, _ = _train(config, people.training, work / "direct", say, field=NoField())
    labelled = [case for site in sites for case in site.test if isinstance(case.label, Path)]
    cases = labelled[: orders.scored]
    scored = {
        "originals": dice_directly(direct, protection, cases, config.data, say),
        "learned": dice_through(learned, protection, cases, config.data, say),
    }
    folder, pictured = orders.out / "pictures", cases[:PICTURED]
    report: dict[str, Any] = {
        **_describe(orders, config, people, protection),
        "direct": asdict(scored["originals"]),
        "losses": losses,
        "pictures": list(draw_pictures(folder, learned, protection, pictured, config.data)),
    }
    suite = AttackSuite(
        people.known,
        people.test,
        protection,
        orders.restarts,
        orders.keys,
        work / "attacks",
        say,
        brief=orders.brief,
    )
    report["arms"] = [
        {**row, "dice": scored[row["name"]].dice if row["name"] in scored else None}
        for row in suite.arms(cases, config.data)
    ]
    report["curve"] = suite.curve(report["arms"], cases, config.data)
    report["extra"] = []
    for other, site in others:
        shown = prepare_splits([site], config, work, say, ("validation", "test"))
        row = {
            "title": other.title,
            "note": other.note,
            "attackers": suite.others(other.title, shown["validation"], shown["test"]),
        }
        if other.scored:
            cases = [case for case in site.test if isinstance(case.label, Path)][: orders.scored]
            row["direct"] = asdict(dice_directly(direct, protection, cases, config.data, say))
            row["dice"] = dice_through(learned, protection, cases, config.data, say).dice
        report["extra"].append(row)
    report["one_key"] = {"title": ONE_KEY, "attackers": suite.agreeing(ONE_KEY)}
    return report


def _read_cohorts(
    orders: Orders, config: Config
) -> tuple[list[SiteDataset], list[tuple[Others, SiteDataset]]]:
    sites = [read_dataset(folder) for folder in orders.folders]
    others = [(other, read_dataset(other.folder, labelled=False)) for other in orders.others]
    for site in (*sites, *(site for _, site in others)):
        check_agreement(site, config.data)
    if len({site.folder.resolve().name for site in sites}) < len(sites):
        raise ConfigError(
            "Two of the data folders have the same name, so that their people would be mixed up. "
            "Rename one of them."
        )
    return sites, others


def _describe(
    orders: Orders, config: Config, people: People, protection: Protection
) -> dict[str, Any]:
    """Return the first part of the report: what was trained, with what, and when."""
    return {
        "format": 1,
        "version": version("polyclinic"),
        "name": orders.out.name,
        "date": time.time(),
        "seed": config.seed,
        "people": {
            "training": _count(people.training),
            "attackers": _count(people.known),
            "test": _count(people.test),
        },
        "visits": len(people.test) // _count(people.test),
        "labels": list(config.data.labels),
        "reference": protection.reference.digest,
        "shape": list(protection.shape),
    }


def _count(cases: Sequence[CanonicalCase]) -> int:
    return len({case.subject for case in cases})


def _mark(facts: object) -> str:
    """Return a name that depends on everything that determines a training."""
    return json_digest(facts)[:16]


def _train(
    config: Config, cases: Sequence[CanonicalCase], kept: Path, say: Say, **changes: object
) -> tuple[ProxySystem, list[dict[str, float]]]:
    """Train a system, unless an earlier call has with the same settings and scans.

    Args:
        config: Settings.
        cases: Scans to train with.
        kept: Folder of trained systems.
        say: Called with lines of progress.
        changes: Arguments of the system that replace those of the settings.

    Returns:
        The system, and the losses in the course of the joint training.
    """
    torch.manual_seed(config.seed)
    system: ProxySystem = instantiate(config.model, **changes)
    people = [case.digest for case in cases]
    training = asdict(config.training)
    polish = training["methods"][NAME].pop("polish")
    facts = [config.model, training, config.seed, people, version("polyclinic"), torch.__version__]
    settings, rate = proxy_settings(config.training), config.training.learning_rate
    trainer = cache(partial(Trainer, system, cases, settings, rate, config.seed))
    joint, last = kept / f"joint-{_mark(facts)}", kept / f"polish-{_mark([*facts, polish])}"
    course = _phase(system, lambda tell: trainer().train(tell), joint, say)
    _phase(system, lambda tell: trainer().polish(tell), last, say)
    return system, course


def _phase(
    system: ProxySystem, train: Callable[[OnStep], object], kept: Path, say: Say
) -> list[dict[str, float]]:
    """Run one phase of a training, or load what an earlier call has kept of it."""
    path, course = kept.with_suffix(".safetensors"), kept.with_suffix(".json")
    if path.is_file() and course.is_file():
        system.load_state_dict(load_state(path)[0])
        say(f"{kept.parent.name}: trained before, taken from {path}")
        system.eval()
        return [dict(row) for row in json.loads(course.read_text())]
    rows: list[dict[str, float]] = []

    def tell(step: int, steps: int, running: Mapping[str, float]) -> None:
        if step % TELL_EVERY == 0 or step == steps:
            rows.append({"step": step, **running})
            parts = ", ".join(f"{name} {value:.3f}" for name, value in running.items())
            say(f"{kept.parent.name}: step {step} of {steps}: {parts}")

    train(tell)
    save_state(system.state_dict(), path, {})
    write_durably(course, json.dumps(rows))
    return rows
