"""`polyclinic-server pretrain`: masked image modelling of a universal encoder on a folder of images.

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

from polyclinic.config.compose import digest, job_settings, load_config
from polyclinic.config.schemas import Config
from polyclinic.errors import ConfigError
from polyclinic.federation.jobs import start_network
from polyclinic.learning.modes import bf16_autocast, training_mode
from polyclinic.learning.state_dict import save_state, shared_names, state_digest
from polyclinic.system.durable import file_digest, write_durably
from polyclinic_strategies.universal.images.unlabelled import find_images, read_images
from polyclinic_strategies.universal.networks.network import UniversalNetwork
from polyclinic_strategies.universal.pretraining import (
    Painter,
    Pretraining,
    hide,
    masked_loss,
    pretrain,
)
from polyclinic_strategies.universal.settings import universal_settings

DEFAULTS = ("model=universal", "data=universal", "training=universal")
HELD_BACK = 8
MASKS = 8  # of every image that was held back
TELL_SHARES = 10  # lines about progress where nobody watches a bar
Tell = Callable[[int, int, str], None]  # done, of, words


@dataclass(frozen=True)
class Orders:
    """What a call asks for.

    Attributes:
        folders: Of images.
        out: Where everything goes.
        weights: The encoder's file.
        overrides: Settings.
        steps: Of the optimizer.
        batch_size, learning_rate: None: those of the training.
    """

    folders: tuple[Path, ...]
    out: Path
    weights: Path
    overrides: tuple[str, ...] = ()
    steps: int = 1000
    batch_size: int | None = None
    learning_rate: float | None = None


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """One image that was held back: as it is, what is hidden of it (bool, one channel), and with that painted; all CXY or CXYZ."""

    original: Tensor
    hidden: Tensor
    painted: Tensor


@dataclass(frozen=True, eq=False)
class Pretrained:
    """What came of it.

    Attributes:
        files, images: Trained on; a volume gives several images.
        losses: Of every step.
        missed: On the images that were held back, the mean absolute error on what was hidden.
        missed_by_mean: The same of every image's mean colour, as far as it was seen.
        pictures: Of those images.
        settings: How.
        weights: The encoder's file.
        base: What it started from, in words.
        model: Its name.
        seed: Of the training.
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
            f"model={config.choices['model']} has no universal encoder: model=universal or model=universal_vit."
        )
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    settings = choose_settings(orders, config)
    hide(
        1, network.encoder.size, settings, torch.Generator()
    )  # refuses masks that do not fit, before any image is read
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
        len(training), len(images), losses, missed, by_mean, pictures, settings, orders.weights,
        "random weights" if config.base is None else Path(config.base).name, config.choices["model"], config.seed,
    )  # fmt: skip
    _save(network, found, config)
    return found


def choose_settings(orders: Orders, config: Config) -> Pretraining:
    """Those of the call; what it does not say, the training says."""
    training, masks = config.training, universal_settings(config.training)
    batch_size, rate = (
        orders.batch_size or training.batch_size,
        orders.learning_rate or training.learning_rate,
    )
    return Pretraining(orders.steps, batch_size, rate, masks.mask_ratio, masks.mask_size)


def split_files(paths: Sequence[Path], seed: int) -> tuple[list[Path], list[Path]]:
    """Those to train on, and those that are held back: by lot, whole files, at most half of them.

    Raises:
        ConfigError: Fewer than two.
    """
    if len(paths) < 2:
        raise ConfigError(
            f"{paths[0]} is the only image there: at least two are needed, one of them to look at in the end."
        )
    drawn = set(
        torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed))[
            : min(HELD_BACK, len(paths) // 2)
        ].tolist()
    )
    return [path for number, path in enumerate(paths) if number not in drawn], [
        paths[number] for number in sorted(drawn)
    ]


def measure(
    network: UniversalNetwork, painter: Painter, images: Tensor, settings: Pretraining, seed: int
) -> tuple[float, float, list[Reconstruction]]:
    """How well hidden squares are painted.

    Args:
        network: Left as it is.
        painter: Trained with it.
        images: None of which was trained on.
        settings: How much is hidden.
        seed: Of the masks.

    Returns:
        Mean absolute error on what was hidden, the same of the mean colour of what was seen, and
        pictures of at most eight.
    """
    device, generator = next(network.parameters()).device, torch.Generator().manual_seed(seed)
    wrong, plain = [], []
    with training_mode(network, train=False), torch.inference_mode(), bf16_autocast(device):
        for number in range(MASKS):
            hidden = hide(len(images), network.encoder.size, settings, generator).to(device)
            for image, mask in zip(
                torch.split(images.to(device), 64), torch.split(hidden, 64), strict=True
            ):
                wrong.append(float(masked_loss(network, painter, image, mask)) * len(image))
                plain.append(
                    float(
                        ((_mean_colour(image, mask) - image).abs() * mask).sum()
                        / (mask[0].sum() * image.shape[1])
                    )
                )
            if number == 0:
                chosen = (
                    torch.linspace(0, len(images) - 1, min(HELD_BACK, len(images))).round().long()
                )
                shown, masks = images[chosen].to(device), hidden[chosen.to(device)]
                painted = painter(network, shown, masks)
                pictures = zip(
                    shown.cpu(),
                    masks.cpu(),
                    torch.where(masks, painted, shown).float().cpu(),
                    strict=True,
                )
                found = [Reconstruction(*each) for each in pictures]
    total = MASKS * len(images)
    return sum(wrong) / total, sum(plain) / total, found


def _mean_colour(images: Tensor, hidden: Tensor) -> Tensor:
    """Of what is seen of each image."""
    axes = list(range(2, images.ndim))
    return (images * ~hidden).sum(axes, keepdim=True) / (~hidden).sum(axes, keepdim=True)


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
    """All that decides what comes of it."""
    base = file_digest(Path(config.base)) if config.base is not None else ""
    decided = [
        dict(config.model),
        asdict(settings),
        config.seed,
        base,
        version("polyclinic"),
        torch.__version__,
    ]
    return {"images": state_digest({"images": images}), "settings": digest(decided)}


def _open_checkpoint(work: Path, facts: dict[str, str], console: Console) -> Path:
    """Where the training is kept; what is kept of another one is removed."""
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
        "names": names, "settings": settings, "version": version("polyclinic"),
        "pretraining": {**asdict(found.settings), "images": found.images, "missed": found.missed, "missed_by_mean": found.missed_by_mean},
    }  # fmt: skip
    state = network.state_dict()
    save_state(
        {name: state[name] for name in shared_names(network, "none")},
        found.weights,
        {"polyclinic": json.dumps(described)},
    )


@contextmanager
def _progress(console: Console, what: str) -> Iterator[Tell]:
    """A bar where somebody watches, else a line now and then."""
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
