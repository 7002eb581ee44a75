"""Commands of the universal model for `polyclinic-client`."""

from pathlib import Path
from typing import Annotated

import typer

from polyclinic.system.commands import unwrap
from polyclinic.system.console import LineConsole

app = typer.Typer()

ADAPT_HELP = unwrap("""Give a universal encoder the head of your own task, on your own labels.

Nothing leaves this machine. A head is fitted to the encoder as it is (probe). With
[bold]--mode full[/bold] encoder and head are then trained together, and the better of both on the
validation cases is kept. The command ends with validation and test scores of each class.

[bold]--from LIBRARY[/bold] takes the library of a run instead of one encoder: a head is fitted to
the universal encoder and to that of each hospital that taught it. The one that is best on the
validation cases is kept, and the command goes on with it.

Examples:

[bold]polyclinic-client adapt --model encoder.safetensors --data /data/chest
--out chest.safetensors[/bold]

[bold]polyclinic-client adapt --model encoder.safetensors --data /data/chest
--out chest.safetensors --mode probe[/bold]

[bold]polyclinic-client adapt --from library.safetensors --data /data/chest
--out chest.safetensors[/bold]

Then: [bold]polyclinic-client predict chest.safetensors scan.nii.gz --out labels/[/bold]""")


@app.command(help=ADAPT_HELP, rich_help_panel="Models")
def adapt(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            help="Folder with dataset.json and the images (Medical Segmentation Decathlon layout).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The model to write, a .safetensors file.")],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", help="A universal encoder: of `polyclinic-server pretrain` or `export`."
        ),
    ] = None,
    library: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="LIBRARY",
            help="Instead of --model: the library.safetensors of a run; the best of its encoders "
            "is kept.",
        ),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            help="probe: a head on the encoder as it is, in a minute; full: then train both."
        ),
    ] = "full",
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Passes over the training cases. Default: as in a stage."),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Highest learning rate. Default: as in a stage.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the head and of the order of the cases.")
    ] = 0,
) -> None:
    """See ADAPT_HELP."""
    from polyclinic.errors import ConfigError
    from polyclinic_strategies.universal.adapt import Wishes, make_table, tell_choice, tell_encoder
    from polyclinic_strategies.universal.adapt import adapt as adapt_encoder

    source = model or library
    if source is None or (model is not None and library is not None):
        raise ConfigError("adapt: give one encoder with --model, or a library with --from.")
    console, wishes = LineConsole(), Wishes(mode, epochs, learning_rate, seed)
    adapted = adapt_encoder(source, data, out, wishes, console, library=library is not None)
    console.print(make_table(adapted))
    if adapted.encoder:
        console.print(tell_encoder(adapted), markup=False)
    console.print(tell_choice(adapted), markup=False)
    console.print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB", markup=False)
