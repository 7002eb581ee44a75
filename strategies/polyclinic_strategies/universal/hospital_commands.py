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

Examples:

[bold]polyclinic-client adapt --model encoder.safetensors --data /data/chest
--out chest.safetensors[/bold]

[bold]polyclinic-client adapt --model encoder.safetensors --data /data/chest
--out chest.safetensors --mode probe[/bold]

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
    model: Annotated[
        Path,
        typer.Option(
            "--model", help="A universal encoder: of `polyclinic-server pretrain` or `export`."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The model to write, a .safetensors file.")],
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
    from polyclinic_strategies.universal.adapt import Wishes, make_table, tell_choice
    from polyclinic_strategies.universal.adapt import adapt as adapt_encoder

    console = LineConsole()
    adapted = adapt_encoder(model, data, out, Wishes(mode, epochs, learning_rate, seed), console)
    console.print(make_table(adapted))
    console.print(tell_choice(adapted), markup=False)
    console.print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB", markup=False)
