"""`polyclinic-server pretrain`: masked image modelling of a universal encoder on images.

OUT/encoder.safetensors   what `base=` of a run takes; `encoder.*`
OUT/report.html           the loss, and what is painted on images that were held back
OUT/work/                 what an interrupted training goes on from
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from polyclinic.config.compose import load_config
from polyclinic.config.jobs import job_settings
from polyclinic.config.schemas import Config
from polyclinic.errors import ConfigError
from polyclinic.federation.jobs import start_network
from polyclinic.learning.state_dict import save_state, shared_names, state_digest
from polyclinic.system.durable import file_digest, write_durably
from polyclinic.system.text import json_digest
from polyclinic_strategies.universal.images.unlabelled import find_images, read_images
from polyclinic_strategies.universal.networks.network import UniversalNetwork
from polyclinic_strategies.universal.pretraining import (
    Painter,
    Pretraining,
    hide,
    pretrain,
)
from polyclinic_strategies.universal.reconstruction import Reconstruction, measure
from polyclinic_strategies.universal.settings import universal_settings

DEFAULTS = ("model=universal", "data=universal", "training=universal")
HELD_BACK = 8
TELL_SHARES = 10  # lines about progress where nobody watches a bar
Tell = Callable[[int, int, str], None]  # done, of, words


@dataclass(frozen=True)
class Orders:
    """What a call of the command asks for.

    Attributes:
        folders: Folders of images.
        out: Folder for everything.
        weights: File for the encoder.
        overrides: Settings.
        steps: Number of optimizer steps.
        batch_size: Number of images in a step; None: that of the training.
        learning_rate: Highest rate; None: that of the training.
    """

    folders: tuple[Path, ...]
    out: Path
    weights: Path
    overrides: tuple[str, ...] = ()
    steps: int = 1000
    batch_size: int | None = None
    learning_rate: float | None = None


@dataclass(frozen=True, eq=False)
class Pretrained:
    """Outcome of a pretraining.

    Attributes:
        files: Number of files that were trained on.
        images: Number of images; a volume gives several.
        losses: Loss of every step.
        missed: Mean absolute error on what was hidden of the images that were held back.
        missed_by_mean: The same of every image's mean colour, as far as it was seen.
        pictures: Reconstructions of some of those images.
        settings: Settings of the training.
        weights: The encoder's file.
        base: What the encoder started from, in words.
        model: Name of the model.
        seed: Seed of the training.
    """

    files: int
    images: int
    losses: list[float]
    missed: float
    missed_by_mean: float
    pictures: list[Reconstruction]
    settings: Pretraining
    weights: Path
    base: str
    model: str
    seed: int


def pretrain_encoder(orders: Orders, console: Console) -> Pretrained:
    """Train, measure, and write the encoder.

    Raises:
        ConfigError: A setting is wrong, `base` is of another network, or there are too few images.
        DataError: The typed fault of an image.
    """
    config = load_config([*DEFAULTS, *orders.overrides])
    network = start_network(config)
    if not isinstance(network, UniversalNetwork):
        raise ConfigError(
            f"model={config.choices['model']} has no universal encoder: model=universal or "
            "model=universal_vit."
        )
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    settings = choose_settings(orders, config)
    # refuses masks that do not fit, before any image is read
    hide(1, network.encoder.size, settings, torch.Generator())
    training, held = split_files(
        [path for folder in orders.folders for path in find_images(folder)], config.seed
    )
    with _progress(console, f"reading {len(training) + len(held)} images") as tell:
        images = read_images(training, config.data, lambda done, of: tell(done, of, ""))
    kept = read_images(held, config.data)
    checkpoint = _open_checkpoint(orders.out / "work", _facts(images, config, settings), console)
    torch.manual_seed(config.seed)
    painter = Painter(network)
    losses = _train(network, painter, images, settings, config.seed, checkpoint, console)
    missed, by_mean, pictures = measure(network, painter, kept, settings, config.seed)
    found = Pretrained(
        files=len(training),
        images=len(images),
        losses=losses,
        missed=missed,
        missed_by_mean=by_mean,
        pictures=pictures,
        settings=settings,
        weights=orders.weights,
        base="random weights" if config.base is None else Path(config.base).name,
        model=config.choices["model"],
        seed=config.seed,
    )
    _save(network, found, config)
    return found


def choose_settings(orders: Orders, config: Config) -> Pretraining:
    """Take what the call says, and the rest from the training."""
    training, masks = config.training, universal_settings(config.training)
    batch_size, rate = (
        orders.batch_size or training.batch_size,
        orders.learning_rate or training.learning_rate,
    )
    return Pretraining(orders.steps, batch_size, rate, masks.mask_ratio, masks.mask_size)


def split_files(paths: Sequence[Path], seed: int) -> tuple[list[Path], list[Path]]:
    """Choose files to train on, and files to hold back: at random, at most half of them.

    Raises:
        ConfigError: Fewer than two.
    """
    if len(paths) < 2:
        raise ConfigError(
            f"{paths[0]} is the only image there: at least two are needed, one of which is held "
            "back."
        )
    drawn = set(
        torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed))[
            : min(HELD_BACK, len(paths) // 2)
        ].tolist()
    )
    return [path for number, path in enumerate(paths) if number not in drawn], [
        paths[number] for number in sorted(drawn)
    ]


def _train(
    network: UniversalNetwork,
    painter: Painter,
    images: Tensor,
    settings: Pretraining,
    seed: int,
    checkpoint: Path,
    console: Console,
) -> list[float]:
    told = False
    with _progress(console, "training") as tell:

        def on_step(step: int, steps: int, loss: float) -> None:
            nonlocal told
            if not told and step > 1:
                console.print(f"going on after step {step - 1}", markup=False)
            told = True
            tell(step, steps, f"loss {loss:.3f}")

        losses = pretrain(
            network, images, settings, seed, painter=painter, checkpoint=checkpoint, on_step=on_step
        )
    if not told:
        console.print(
            "trained before with the same images and settings: the results are written again",
            markup=False,
        )
    return losses


def _facts(images: Tensor, config: Config, settings: Pretraining) -> dict[str, str]:
    """Collect all that decides the outcome."""
    base = file_digest(Path(config.base)) if config.base is not None else ""
    decided = [
        dict(config.model),
        asdict(settings),
        config.seed,
        base,
        version("polyclinic"),
        torch.__version__,
    ]
    return {"images": state_digest({"images": images}), "settings": json_digest(decided)}


def _open_checkpoint(work: Path, facts: dict[str, str], console: Console) -> Path:
    """Find the training that is kept; remove that of another one."""
    path, described = work / "checkpoint.pt", work / "facts.json"
    try:
        before = json.loads(described.read_text())
    except (OSError, json.JSONDecodeError):
        before = None
    if path.exists() and before != facts:
        other = [
            name
            for name in facts
            if not isinstance(before, dict) or before.get(name) != facts[name]
        ]
        console.print(
            f"the training that is kept in {work} had other {' and '.join(other)}: beginning anew",
            markup=False,
        )
        path.unlink()
    write_durably(described, json.dumps(facts).encode())
    return path


def _save(network: UniversalNetwork, found: Pretrained, config: Config) -> None:
    names, settings = job_settings(config)
    described = {
        "names": names,
        "settings": settings,
        "version": version("polyclinic"),
        "pretraining": {
            **asdict(found.settings),
            "images": found.images,
            "missed": found.missed,
            "missed_by_mean": found.missed_by_mean,
        },
    }
    state = network.state_dict()
    save_state(
        {name: state[name] for name in shared_names(network, "none")},
        found.weights,
        {"polyclinic": json.dumps(described)},
    )


@contextmanager
def _progress(console: Console, what: str) -> Iterator[Tell]:
    """Show a bar in a terminal, else print a line now and then."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=None, words="")

        def tell(done: int, of: int, words: str) -> None:
            bar.update(task, completed=done, total=of, words=words)
            if not console.is_terminal and (done == of or done % max(1, of // TELL_SHARES) == 0):
                console.print(
                    f"{what}: {done} of {of}{f', {words}' if words else ''}", markup=False
                )

        yield tell
