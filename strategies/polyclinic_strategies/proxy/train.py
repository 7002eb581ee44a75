"""`polyclinic-server train-proxy`: from a cohort with several visits of everybody to a generator, a segmenter and an honest report.

OUT/generator.safetensors   goes to the hospitals
OUT/segmenter.safetensors   stays with the segmentation service
OUT/proxy.json, report.html what it is worth
OUT/work/                   what is taken up again if it is interrupted: canonical scans, finished trainings, attackers' results
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from polyclinic.config.compose import digest, instantiate, job_settings, load_config
from polyclinic.config.schemas import Config
from polyclinic.errors import ConfigError
from polyclinic.imaging.datasets import Case, SiteDataset, check_agreement, read_dataset
from polyclinic.learning.state_dict import load_state, save_state
from polyclinic.system.durable import write_durably
from polyclinic_strategies.proxy.attacks.attack_suite import Campaign
from polyclinic_strategies.proxy.cases import CanonicalCase, check_people, prepare_cases
from polyclinic_strategies.proxy.frame.atlas import icbm152_reference
from polyclinic_strategies.proxy.generator import NoField
from polyclinic_strategies.proxy.measurements import dice_directly, dice_through, draw_pictures
from polyclinic_strategies.proxy.parts import write_parts
from polyclinic_strategies.proxy.settings import NAME, proxy_settings
from polyclinic_strategies.proxy.system import ProxySystem
from polyclinic_strategies.proxy.training import OnStep, Trainer

DEFAULTS = ("model=proxy", "data=proxy_brain", "training=proxy")
PICTURED = 3
TELL_EVERY = 25
Say = Callable[[str], None]


@dataclass(frozen=True)
class Others:
    """A cohort whose people differ by something else than shape, or by more of it."""

    title: str
    note: str
    folder: Path

    @classmethod
    def with_lesions(cls, folder: Path) -> "Others":
        """People who have lesions at places of their own."""
        note = "A warp moves a lesion and does not remove it: where it lies in the anatomy stays to be seen."
        return cls("lesions: an identity that is not shape", note, folder)


@dataclass(frozen=True)
class Orders:
    """What a call asks for.

    Attributes:
        folders: Hospitals' folders; their dataset.json name each case's subject. Training cases train, validation cases are the people
            that attackers know, test cases the people whom they try to recognize.
        others: People of another kind, to attack as well: only known ones and such as are to be recognized.
        out: Where everything goes.
        overrides: Settings.
        restarts: Of every attacker.
        keys: Proxies of every visit, for attackers to train on and to average.
        scored: Test scans that are segmented.
    """

    folders: tuple[Path, ...]
    out: Path
    overrides: tuple[str, ...] = ()
    others: tuple["Others", ...] = ()
    restarts: int = 3
    keys: int = 4
    scored: int = 8


@dataclass(frozen=True, eq=False)
class People:
    """Canonical scans by what they are for."""

    training: list[CanonicalCase]
    known: list[CanonicalCase]
    test: list[CanonicalCase]


def train_proxy(orders: Orders, console: Console) -> Path:
    """Train, measure, and write everything; returns OUT.

    Raises:
        ConfigError: A setting is wrong.
        DatasetInvalid: People came once only, or the labels are others.
        DataError: The typed fault of a scan.
    """
    start = time.time()
    config = load_config([*DEFAULTS, *orders.overrides])
    proxy_settings(config.training)  # refuses another training before anything is read
    sites = [read_dataset(folder) for folder in orders.folders]
    others = [(other, read_dataset(other.folder, labelled=False)) for other in orders.others]
    for site in (*sites, *(site for _, site in others)):
        check_agreement(site, config.data)
    if len({site.folder.resolve().name for site in sites}) < len(sites):
        raise ConfigError(
            "Two of the data folders have the same name, their people would be mixed up: rename one."
        )
    say: Say = lambda text: console.print(text, markup=False, soft_wrap=True)  # noqa: E731
    work = orders.out / "work"
    prepared = _prepare(sites, config, work, say, ("training", "validation", "test"))
    people = People(prepared["training"], prepared["validation"], prepared["test"])
    torch.manual_seed(config.seed)
    learned: ProxySystem = instantiate(config.model)
    losses = _train(learned, people.training, config, work / "learned", say)
    _, settings = job_settings(config)
    protection = write_parts(learned, config.data.labels, settings, orders.out)
    torch.manual_seed(config.seed)
    direct: ProxySystem = instantiate(config.model, field=NoField())
    _train(direct, people.training, config, work / "direct", say)
    cases = [case for site in sites for case in site.test if isinstance(case.label, Path)][
        : orders.scored
    ]
    scored = {
        "originals": dice_directly(direct, protection, cases, config.data, say),
        "learned": dice_through(learned, protection, cases, config.data, say),
    }
    report: dict[str, Any] = {
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
        "direct": asdict(scored["originals"]),
        "losses": losses,
        "pictures": list(
            draw_pictures(
                orders.out / "pictures", learned, protection, cases[:PICTURED], config.data
            )
        ),
    }
    campaign = Campaign(
        people.known, people.test, protection, orders.restarts, orders.keys, work / "attacks", say
    )
    report["arms"] = [
        {**row, "dice": scored[row["name"]].dice if row["name"] in scored else None}
        for row in campaign.arms(cases, config.data)
    ]
    report["curve"] = campaign.curve(report["arms"], cases, config.data)
    report["extra"] = []
    for other, site in others:
        shown = _prepare([site], config, work, say, ("validation", "test"))
        attackers = campaign.others(other.title, shown["validation"], shown["test"])
        report["extra"].append({"title": other.title, "note": other.note, "attackers": attackers})
    report["seconds"] = time.time() - start
    write_durably(orders.out / "proxy.json", json.dumps(report, indent=1).encode())
    return orders.out


def _prepare(
    sites: Sequence[SiteDataset], config: Config, work: Path, say: Say, splits: Sequence[str]
) -> dict[str, list[CanonicalCase]]:
    """Everybody's scans in the canonical frame, by split; labels and the finest resolution where they train a segmenter."""
    return {
        split: _prepare_split(
            [_named(case, site) for site in sites for case in getattr(site, split)],
            split,
            config,
            work,
            say,
        )
        for split in splits
    }


def _named(case: Case, site: SiteDataset) -> Case:
    """Two hospitals may call different people the same."""
    return replace(case, subject=f"{site.folder.name}/{case.subject}") if case.subject else case


def _prepare_split(
    cases: Sequence[Case], split: str, config: Config, work: Path, say: Say
) -> list[CanonicalCase]:
    check_people(
        cases,
        cases[0].image[0].parent.parent / "dataset.json" if cases else Path("dataset.json"),
        split,
    )

    def tell(done: int, total: int, name: str) -> None:
        if done % TELL_EVERY == 0 or done == total:
            say(f"{split}: {done} of {total} scans brought to the reference ({name})")

    spacing_mm = float(config.model["spacing_mm"])
    return prepare_cases(
        cases,
        icbm152_reference(spacing_mm),
        work / "canonical",
        len(config.data.labels),
        fine=split == "training",
        on_progress=tell,
    )


def _count(cases: Sequence[CanonicalCase]) -> int:
    return len({case.subject for case in cases})


def _mark(facts: object) -> str:
    """Names a training by everything that decides it."""
    return digest(facts)[:16]


def _train(
    system: ProxySystem, cases: Sequence[CanonicalCase], config: Config, kept: Path, say: Say
) -> list[dict[str, float]]:
    """Train, unless a former call has with the same settings and scans; returns the course of the joint training's losses."""
    people = [case.digest for case in cases]
    training = asdict(config.training)
    polish = training["methods"][NAME].pop("polish")
    facts = [config.model, training, config.seed, people, version("polyclinic"), torch.__version__]
    trainer = cache(
        partial(
            Trainer,
            system,
            cases,
            proxy_settings(config.training),
            config.training.learning_rate,
            config.seed,
        )
    )
    course = _phase(system, lambda tell: trainer().train(tell), kept / f"joint-{_mark(facts)}", say)
    _phase(
        system, lambda tell: trainer().polish(tell), kept / f"polish-{_mark([*facts, polish])}", say
    )
    return course


def _phase(
    system: ProxySystem, train: Callable[[OnStep], object], kept: Path, say: Say
) -> list[dict[str, float]]:
    """One phase of a training, or what a former call has kept of it."""
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
    write_durably(course, json.dumps(rows).encode())
    return rows
