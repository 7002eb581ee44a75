"""`polyclinic-client adapt`: a universal encoder with a head for the hospital's own task."""

import json
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from polyclinic.config.schemas import JobConfig
from polyclinic.errors import ConfigError
from polyclinic.imaging.dataset_checks import check_dataset
from polyclinic.imaging.datasets import read_dataset
from polyclinic.learning import training
from polyclinic.learning.fine_tuning import Course, fit_passes
from polyclinic.learning.metrics import Evaluation
from polyclinic.learning.model_file import load_model
from polyclinic.learning.prediction import evaluate_natively
from polyclinic.learning.preparation import PreparedSite, prepare
from polyclinic.learning.site_tasks import site_job
from polyclinic.learning.state_dict import load_metadata, load_state, save_state
from polyclinic_strategies.universal.hospital import fit_head
from polyclinic_strategies.universal.networks.network import UniversalNetwork
from polyclinic_strategies.universal.teaching.library import (
    UNIVERSAL,
    Encoder,
    choose_encoder,
    read_library,
)

MODES = ("probe", "full")
DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class Wishes:
    """Way to adapt an encoder.

    Attributes:
        mode: probe fits a head to the encoder as it is; full trains encoder and head after that.
        epochs: Number of passes over the training cases, for full; None: as in a stage.
        learning_rate: Highest rate, for full; None: that of a stage.
        seed: Seed of the head and of the order of the cases.
    """

    mode: str = "full"
    epochs: int | None = None
    learning_rate: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"--mode {self.mode}: {' or '.join(MODES)}.")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ConfigError(f"--learning-rate {self.learning_rate:g}: a number above 0.")


@dataclass(frozen=True)
class Adapted:
    """Outcome of adapting an encoder.

    Attributes:
        kept: Mode that was kept.
        tried: Score of every mode on the validation cases.
        encoder: Name of the encoder that was kept, of a library; else nothing.
        encoders: Score of a head on each encoder of a library, on the validation cases.
        validation: Figures of the one that was kept, on the validation cases.
        test: The same on the test cases, or on the validation cases if those have no labels.
        tested: Name of these cases.
        measure: Name of the score.
    """

    kept: str
    tried: dict[str, float]
    validation: Evaluation
    test: Evaluation
    tested: str
    measure: str
    encoder: str = ""
    encoders: Mapping[str, float] = field(default_factory=dict)


def adapt(
    model: Path,
    data: Path,
    out: Path,
    wishes: Wishes,
    console: Console,
    *,
    library: bool = False,
) -> Adapted:
    """Choose an encoder if there are several, fit, choose how, test, and write the model.

    Args:
        model: File of a universal encoder, or of a library of encoders.
        data: Folder with dataset.json.
        out: File to write.
        wishes: Way to adapt.
        console: Where progress is shown.
        library: Whether `model` is a library.

    Raises:
        ModelInvalid: The file is damaged, or not of polyclinic's.
        ConfigError: It is no universal encoder, or no library, or training diverged.
        DataError: The typed fault of a file.
    """
    shelf: Sequence[Encoder] = ()
    if library:
        network, job, shelf = read_library(model)
    else:
        network, job = load_encoder(model)
    dataset = read_dataset(data)
    for warning in check_dataset(dataset):
        console.print(f"warning: {warning}", style="yellow", markup=False)
    job = site_job(job, dataset)
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading images")
        prepared = prepare(
            dataset, job.data, lambda done, of: bar.update(task, completed=done, total=of)
        )
    encoders = _try_encoders(network, shelf, prepared, wishes.seed, console)
    encoder = choose_encoder(encoders) if encoders else ""
    if encoder:
        network.load_state_dict(next(each.state for each in shelf if each.name == encoder))
    with console.status("fitting a head"):
        described = fit_head(network, prepared, wishes.seed)
    tried = {"probe": _score(network, prepared)}
    console.print(f"probe: {tried['probe']:.3f} on the validation cases", markup=False)
    kept = "probe"
    if wishes.mode == "full":
        tuned = _tune(network, prepared, job, wishes, console)
        tried["full"] = _score(tuned, prepared)
        console.print(f"full: {tried['full']:.3f} on the validation cases", markup=False)
        if tried["full"] > tried["probe"]:
            kept, network = "full", tuned
    network.eval()
    validation = training.evaluate(network, prepared.validation, job.data)
    test, cases = evaluate_natively(network, dataset, job.data)
    chosen = {"encoder": encoder} if encoder else {}
    own = {**described, **chosen, "adapted": kept, "version": version("polyclinic")}
    _save(network, model, out, own)
    return Adapted(
        kept,
        tried,
        validation,
        test,
        cases[0].split,
        "Dice" if job.data.task == "segmentation" else "Recall",
        encoder,
        encoders,
    )


def load_encoder(path: Path) -> tuple[UniversalNetwork, JobConfig]:
    """Load a universal encoder, and the job that it is for.

    Raises:
        ModelInvalid: The file is damaged, or not of polyclinic's.
        ConfigError: It is another kind of model.
    """
    if "library" in load_metadata(load_state(path)[1], path):
        raise ConfigError(f"{path}: a library of encoders. Give it with --from.")
    network, job = load_model(path)
    if not isinstance(network, UniversalNetwork) or network.head is not None:
        what = (
            "has the head of a task already"
            if isinstance(network, UniversalNetwork)
            else "is a model for one task"
        )
        raise ConfigError(
            f"{path}: no universal encoder, it {what}. Take what `polyclinic-server pretrain`, or "
            "`export` of a run with strategy=universal, wrote."
        )
    return network, job


def tell_choice(adapted: Adapted) -> str:
    """Say which was kept, and why."""
    if len(adapted.tried) == 1:
        return "kept: the head on the encoder as it was (probe)"
    others = f"{adapted.tried['full']:.3f} against {adapted.tried['probe']:.3f} of the probe"
    if adapted.kept == "full":
        return f"kept: encoder and head trained together (full), {others} on the validation cases"
    return (
        "kept: the head on the encoder as it was (probe); training both was no better on the "
        f"validation cases, {others}"
    )


def tell_encoder(adapted: Adapted) -> str:
    """Say which encoder of a library was kept, and why."""
    best, universal = adapted.encoders[adapted.encoder], adapted.encoders[UNIVERSAL]
    if adapted.encoder == UNIVERSAL:
        return "encoder: the universal one; no teacher was better on the validation cases"
    return (
        f"encoder: {adapted.encoder}, {best:.3f} against {universal:.3f} of the universal one on "
        f"the validation cases. The best of {len(adapted.encoders)} is partly luck: trust the test "
        "scores."
    )


def make_table(adapted: Adapted) -> Table:
    """Make a table of the scores of every class."""
    table = Table(title=Text(f"{adapted.measure} of each class ({adapted.kept})"))
    table.add_column("class", overflow="fold")
    table.add_column("validation", justify="right")
    table.add_column(
        "test" if adapted.tested == "test" else "validation, own grids", justify="right"
    )
    for name in adapted.validation.scores:
        table.add_row(
            Text(name),
            _show(adapted.validation.scores[name]),
            _show(adapted.test.scores.get(name, math.nan)),
        )
    table.add_section()
    table.add_row(
        Text("mean", style="bold"), _show(adapted.validation.score), _show(adapted.test.score)
    )
    return table


def _try_encoders(
    network: UniversalNetwork,
    shelf: Sequence[Encoder],
    prepared: PreparedSite,
    seed: int,
    console: Console,
) -> dict[str, float]:
    """Fit a head to every encoder of a library; return the validation score of each."""
    scores = {}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("trying encoders", total=len(shelf))
        for each in shelf:
            tried = deepcopy(network)
            tried.load_state_dict(each.state)
            fit_head(tried, prepared, seed)
            scores[each.name] = _score(tried, prepared)
            what = f" ({each.task})" if each.task else ""
            console.print(f"{each.name}{what}: {scores[each.name]:.3f}", markup=False)
            bar.advance(task)
    return scores


def _tune(
    network: UniversalNetwork,
    prepared: PreparedSite,
    job: JobConfig,
    wishes: Wishes,
    console: Console,
) -> UniversalNetwork:
    """Train a copy of encoder and head together, as in a stage of a federation."""
    tuned = deepcopy(network)
    rate = wishes.learning_rate or job.training.learning_rate
    asked = replace(job.training, learning_rate=rate)
    course = Course(
        wishes.epochs or job.training.epochs,
        lambda number: wishes.seed * 100_003 + number,
        falling=True,
    )
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("training encoder and head")
        fit_passes(
            tuned,
            prepared,
            asked,
            course,
            on_step=lambda step, steps, _loss: bar.update(task, completed=step, total=steps),
        )
    return tuned


def _score(network: UniversalNetwork, prepared: PreparedSite) -> float:
    return training.evaluate(network, prepared.validation, prepared.data).score


def _save(network: UniversalNetwork, source: Path, out: Path, own: dict[str, Any]) -> None:
    """Write the network; names and settings, by which it is built again, are the encoder's."""
    described = load_metadata(load_state(source)[1], source)
    kept = {key: described[key] for key in ("names", "settings")}
    save_state(network.state_dict(), out, {"polyclinic": json.dumps({**kept, **own})})


def _show(score: float) -> str:
    return DASH if math.isnan(score) else f"{score:.3f}"
