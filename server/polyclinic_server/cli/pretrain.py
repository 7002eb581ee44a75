"""`polyclinic-server pretrain`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(highlight=False)
DATA, ENDING = "data=", ".safetensors"

PRETRAIN_HELP = """Train a universal encoder on images without labels: it learns to paint squares that are hidden from it.

data=FOLDER names a folder of images (several: data=A,B), in any subfolders: PNG, JPEG, NIfTI. base=FILE starts from the weights of
an earlier pretrain, or of any file with the same encoder. Interrupted, the same command goes on; with other images or settings it
begins anew. It ends with OUT/encoder.safetensors and OUT/report.html, which compares 8 images that were held back.

Examples:

[bold]polyclinic-server pretrain data=/data/public --out pretrained[/bold]

[bold]polyclinic-server pretrain data=/data/a,/data/b --steps 5000 --batch-size 64 training.universal.mask_ratio=0.5[/bold]

[bold]polyclinic-server pretrain data=/data/more base=pretrained/encoder.safetensors --out further[/bold]

Then: [bold]polyclinic-server run strategy=universal model=universal data=universal training=universal strategy.public=/data/public
base=pretrained/encoder.safetensors[/bold]"""


def pretrain(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="data=FOLDER [SETTING=VALUE]...", help="See the examples."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder for the results; or a .safetensors file, whose report goes into a folder of its name.",
        ),
    ] = Path("pretrained"),
    steps: Annotated[int, typer.Option(min=1, help="Of the optimizer.")] = 1000,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images in a step. Default: training.batch_size.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="At its highest. Default: training.learning_rate.")
    ] = None,
) -> None:
    """See PRETRAIN_HELP."""
    from polyclinic.errors import ConfigError
    from polyclinic_strategies.universal.masked_pretraining import Orders, pretrain_encoder
    from polyclinic_strategies.universal.report.masked_report import write_pretraining_report

    texts = settings or []
    folders = [
        Path(name)
        for text in texts
        if text.startswith(DATA)
        for name in text.removeprefix(DATA).split(",")
        if name
    ]
    if not folders:
        raise ConfigError("pretrain: name the folder of the images, data=FOLDER.")
    if learning_rate is not None and not learning_rate > 0:
        raise ConfigError(f"--learning-rate {learning_rate:g}: a number above 0.")
    overrides = tuple(text for text in texts if not text.startswith(DATA))
    single = out.suffix == ENDING
    folder = out.with_suffix("") if single else out
    weights = out if single else folder / f"encoder{ENDING}"
    found = pretrain_encoder(
        Orders(tuple(folders), folder, weights, overrides, steps, batch_size, learning_rate),
        console,
    )
    path = write_pretraining_report(folder, found)
    console.print(
        f"held-back images: misses by {found.missed:.4f}, the mean colour of what is seen by {found.missed_by_mean:.4f}",
        markup=False,
    )
    console.print(f"encoder: {weights}", markup=False, soft_wrap=True)
    console.print(f"report: {path}", markup=False, soft_wrap=True)
