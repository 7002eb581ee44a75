"""`polyclinic-server plan`: a plan from hospitals' fingerprints, or from folders."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from polyclinic.errors import ConfigError
from polyclinic.system.commands import NO_KEYS, Insecure, Settings
from polyclinic.system.console import LineConsole

if TYPE_CHECKING:
    from polyclinic.config.plan_files import Plan
    from polyclinic_strategies.planning.strategy import Planning

app = typer.Typer()
LIGHT = ("model=dynunet", "model.features=4", "model.most_features=4")  # nobody trains it
PLAN_HELP = """Plan voxel size, patch, batch and normalization from the hospitals' own data.

Hospitals join as for a run. Each sends a fingerprint: histograms of voxel sizes, shapes and
intensities over its training cases, if these are of enough patients. nnU-Net's rules make a plan of
them, which is shown with its reasons and written to a file.

Examples:

[bold]polyclinic-server plan data=segmentation 'data.labels=\\[background,tumour]'[/bold]

[bold]polyclinic-server plan --insecure --memory-gb 16 --residual data=segmentation
'data.labels=\\[background,liver]' 'data.modality=\\[CT]'[/bold] (to try it on this machine; a
channel that is named CT is clipped)

[bold]polyclinic-server plan --data FOLDER[/bold] (for one site, without hospitals: classes and
channels are those of its dataset.json)

[bold]polyclinic-server run data=plan.yaml model=dynunet training=nnunet[/bold] (uses it; settings
that you add count more than the plan's)"""


@app.command(help=PLAN_HELP, rich_help_panel="Runs")
def plan(
    settings: Settings = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            metavar="FOLDER",
            help="Folder with dataset.json, instead of hospitals; may be repeated.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="File to write.")] = Path("plan.yaml"),
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file if there is one.")
    ] = False,
    memory_gb: Annotated[
        float,
        typer.Option(
            "--memory-gb",
            help="Memory that training may take, in GiB: of the GPU, if there is one.",
        ),
    ] = 8.0,
    dimensions: Annotated[
        int | None,
        typer.Option("--dimensions", min=2, max=3, help="2 or 3. Default: as the images are."),
    ] = None,
    residual: Annotated[
        bool, typer.Option("--residual", help="Plan for a network with residual blocks.")
    ] = False,
    insecure: Insecure = False,
) -> None:
    """Plan; the help text is PLAN_HELP."""
    from polyclinic.config.plan_files import write_plan
    from polyclinic_strategies.planning.strategy import Planning

    check_target(out, force)
    console = LineConsole()
    planning = Planning(memory_gb=memory_gb, dimensions=dimensions or 0, residual=residual)
    asked = list(settings or [])
    made = (
        plan_from_folders(data, asked, planning, console)
        if data
        else plan_with_hospitals(asked, planning, insecure, console)
    )
    check_target(out, force)
    written = write_plan(made, out)
    console.print(show_plan(written))
    console.print(
        f"{out}: digest {written.digest[:12]}, about {written.memory_gb:.1f} GiB to train.\n"
        f"polyclinic-server run data={out} model=dynunet training=nnunet",
        markup=False,
    )


def check_target(path: Path, force: bool) -> None:
    """Refuse to replace a file.

    Raises:
        ConfigError: There is one, and nobody said that it may be replaced.
    """
    if path.exists() and not force:
        raise ConfigError(f"{path} exists: choose another file with --out, or replace it: --force.")


def plan_from_folders(
    folders: list[Path], settings: list[str], planning: "Planning", console: Console
) -> "Plan":
    """Plan without hospitals, with a progress bar for each folder."""
    from polyclinic_strategies.planning.folders import plan_folders

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bars = {
            folder: progress.add_task(Text(str(folder)).plain, total=None) for folder in folders
        }

        def tell(folder: Path, done: int, cases: int) -> None:
            progress.update(bars[folder], completed=done + 1, total=cases)

        return plan_folders(folders, settings, planning, tell)


def plan_with_hospitals(
    settings: list[str], planning: "Planning", insecure: bool, console: Console
) -> "Plan":
    """Wait for hospitals as a run does, and plan from their fingerprints.

    Raises:
        ConfigError: A strategy is named, or another setting is wrong.
        RunError: Too few hospitals came or answered.
    """
    from polyclinic.simulation.sides import load_side
    from polyclinic_strategies.planning.coordinator import find_plan

    given = {text.partition("=")[0] for text in settings}
    if "strategy" in given:
        raise ConfigError("plan: a plan needs no strategy. Leave it out, and give it to `run`.")
    asked = [
        "strategy=planning",
        f"strategy.memory_gb={planning.memory_gb}",
        f"strategy.dimensions={planning.dimensions}",
        f"strategy.residual={str(planning.residual).lower()}",
        *(() if "model" in given else LIGHT),
        *settings,
        *([NO_KEYS] if insecure else []),
    ]
    folder = load_side("run")(asked, None, None, console)
    return find_plan(folder.path)[1]


def show_plan(plan: "Plan") -> Table:
    """Make a table of a plan: what, value, why."""
    from polyclinic_strategies.planning.plan import table_rows

    table = Table(title=f"plan for {plan.fingerprint.get('patients', '?')} patients")
    for head in ("what", "value", "why"):
        table.add_column(head, overflow="fold")
    table.add_row("data", plan.data, "")
    for key, (value, why) in table_rows(plan).items():
        table.add_row(key, Text(value), Text(why))
    return table
