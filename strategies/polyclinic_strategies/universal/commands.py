"""Commands of the universal model for `polyclinic-server`."""

from pathlib import Path
from typing import Annotated

import typer

from polyclinic.system.commands import Settings
from polyclinic.system.console import LineConsole

app = typer.Typer()
console = LineConsole()
ENDING = ".safetensors"

PRETRAIN_HELP = """Train a universal encoder on images without labels, by masked image modelling.

The encoder learns to predict squares that are hidden from it. --data names a folder of images (PNG,
JPEG, NIfTI), also in subfolders. base=FILE starts from the weights of an earlier pretrain, or of
any file with the same encoder. After an interruption, the same command goes on; with other images
or settings it begins again. The results are OUT/encoder.safetensors and OUT/report.html, which
shows 8 images that were not used for training.

Examples:

[bold]polyclinic-server pretrain --data /data/public --out pretrained[/bold]

[bold]polyclinic-server pretrain --data /data/a --data /data/b --steps 5000
training.universal.mask_ratio=0.5[/bold]

[bold]polyclinic-server pretrain --data /data/more base=pretrained/encoder.safetensors[/bold]

Then: [bold]polyclinic-server run strategy=universal model=universal data=universal
training=universal strategy.public=/data/public base=pretrained/encoder.safetensors[/bold]"""


@app.command(help=PRETRAIN_HELP, rich_help_panel="Methods")
def pretrain(
    settings: Settings = None,
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", metavar="FOLDER", help="A folder of images; may be repeated."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder for the results; or a .safetensors file, and the report is in the folder "
            "of the same name.",
        ),
    ] = Path("pretrained"),
    steps: Annotated[int, typer.Option(min=1, help="Number of optimizer steps.")] = 1000,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Number of images in a step. Default: training.batch_size."),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Highest learning rate. Default: training.learning_rate.")
    ] = None,
) -> None:
    """See PRETRAIN_HELP."""
    from polyclinic.errors import ConfigError
    from polyclinic_strategies.universal.masked_pretraining import Orders, pretrain_encoder
    from polyclinic_strategies.universal.report.masked_report import write_pretraining_report

    if not data:
        raise ConfigError("pretrain: name the folder of the images with --data FOLDER.")
    if learning_rate is not None and not learning_rate > 0:
        raise ConfigError(f"--learning-rate {learning_rate:g} must be a number above 0.")
    single = out.suffix == ENDING
    folder = out.with_suffix("") if single else out
    weights = out if single else folder / f"encoder{ENDING}"
    overrides = tuple(settings or ())
    orders = Orders(tuple(data), folder, weights, overrides, steps, batch_size, learning_rate)
    found = pretrain_encoder(orders, console)
    path = write_pretraining_report(folder, found)
    console.print(
        f"images that were not used for training: error {found.missed:.4f}, "
        f"{found.missed_by_mean:.4f} if the mean colour of the visible squares is predicted",
        markup=False,
    )
    console.print(f"encoder: {weights}", markup=False)
    console.print(f"report: {path}", markup=False)
