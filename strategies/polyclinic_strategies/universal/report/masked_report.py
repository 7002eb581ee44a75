"""One page about a pretrained encoder: its loss, and what it paints on held-back images."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from polyclinic.imaging.pictures import encode_png
from polyclinic.reporting.chart import MOST_POINTS, Chart, draw_series
from polyclinic.reporting.formats import MINUS, plural, show_date
from polyclinic.reporting.page import make_environment, write_page
from polyclinic.reporting.pictures import as_uri
from polyclinic.reporting.section import Tile
from polyclinic_strategies.universal.masked_pretraining import Pretrained
from polyclinic_strategies.universal.reconstruction import Reconstruction

TEMPLATES = Path(__file__).parent / "templates"
HIDDEN = (0.62, 0.74, 0.83)  # colour of what is not seen
CLEARLY = 0.02  # share by which the encoder has to beat the mean colour
LOSS_SIZE = (760, 300)  # width and height, pixels


@dataclass(frozen=True)
class Strip:
    """One image as data URIs."""

    original: str
    seen: str
    painted: str


def write_pretraining_report(folder: Path, found: Pretrained) -> Path:
    """Write report.html, all of it or nothing, and return its path.

    Raises:
        RunError: The folder cannot be written to.
    """
    return write_page(folder, render(folder.name, found))


def render(name: str, found: Pretrained) -> str:
    """Make the page."""
    return (
        make_environment(TEMPLATES)
        .get_template("pretraining.html.j2")
        .render(
            name=name,
            found=found,
            facts=_facts(found),
            lead=tell_result(found),
            learned=learned(found),
            tiles=_tiles(found),
            strips=[draw_strip(each) for each in found.pictures],
            chart=draw_losses(found.losses),
            version=version("polyclinic"),
        )
    )


def learned(found: Pretrained) -> bool:
    """Tell whether the encoder paints better than the mean colour."""
    return found.missed < (1 - CLEARLY) * found.missed_by_mean


def tell_result(found: Pretrained) -> str:
    """Tell the result in one sentence."""
    many = f"On {plural(len(found.pictures), 'image')} that it was not trained on, the encoder"
    if not learned(found):
        return f"{many} paints what is hidden no better than each image's mean colour does."
    share = 100 * (1 - found.missed / found.missed_by_mean)
    return f"{many} misses what is hidden by {share:.0f} % less than each image's mean colour does."


def draw_losses(losses: Sequence[float]) -> Chart:
    """Draw the loss over the steps; of many steps, means of neighbours."""
    every = -(-len(losses) // MOST_POINTS)
    groups = [losses[start : start + every] for start in range(0, len(losses), every)]
    points = [
        (number * every + (len(group) + 1) / 2, sum(group) / len(group))
        for number, group in enumerate(groups)
    ]
    note = "mean absolute error on what is hidden; low is good"
    note += f"; each point is a mean over {every} steps" if every > 1 else ""
    return draw_series("Loss on the images that are trained on", note, points, *LOSS_SIZE)


def draw_strip(found: Reconstruction) -> Strip:
    """Draw three pictures in the range of the original; of a volume the middle slice."""
    low, high = found.original.min(), found.original.max()

    def plane(image: Tensor) -> Tensor:
        return image if image.ndim == 3 else image[..., image.shape[-1] // 2]

    def grey(image: Tensor) -> Tensor:
        shown = (plane(image) - low) / (high - low).clamp_min(1e-6)
        return shown if len(shown) == 3 else shown[:1].expand(3, -1, -1)

    def source(picture: Tensor) -> str:
        return as_uri(encode_png(picture))

    seen = torch.where(
        plane(found.hidden), torch.tensor(HIDDEN).view(3, 1, 1), grey(found.original)
    )
    return Strip(source(grey(found.original)), source(seen), source(grey(found.painted)))


def _tiles(found: Pretrained) -> list[Tile]:
    held_back = f"on images that were held back; they range from about {MINUS}1 to 1"
    batch = min(found.settings.batch_size, found.images)
    return [
        (f"{found.missed:.3f}", f"mean error on what is hidden, {held_back}"),
        (
            f"{found.missed_by_mean:.3f}",
            "the same for the mean colour of what is seen of each image",
        ),
        (f"{found.images:,}", f"images trained on, from {plural(found.files, 'file')}"),
        (f"{found.settings.steps:,}", f"steps of {plural(batch, 'image')}"),
    ]


def _facts(found: Pretrained) -> list[str]:
    """List what stands under the title."""
    size = " x ".join(map(str, found.pictures[0].original.shape[1:]))
    moment = datetime.now(UTC).isoformat(timespec="minutes")
    return [f"model={found.model}", f"{size} voxels", show_date(moment)]
