"""Commands of the demos for `polyclinic-server`, in a panel of their own."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from polyclinic.system.console import LineConsole

PANEL = "Demos"
app = typer.Typer()
console = LineConsole()
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of data and training.")]
Folder = Annotated[Path, typer.Option("--folder", help="Where everything goes.")]
Subjects = Annotated[int, typer.Option("--subjects", min=1, help="Training subjects per hospital.")]
Settings = Annotated[
    list[str] | None, typer.Argument(metavar="[SETTING=VALUE]...", help="Passed on to `run`.")
]


def check_brain() -> None:
    """Refuse to start without the average brain, which all simulated people are made from.

    Raises:
        ConfigError: nilearn, which brings it, is not installed.
    """
    from polyclinic.errors import ConfigError

    if find_spec("nilearn") is None:
        raise ConfigError(
            "The demos' images are made from the average brain that nilearn brings, and nilearn is "
            "not installed. Install it: pip install 'polyclinic[demos]'."
        )


@app.command(rich_help_panel=PANEL)
def demo(overrides: Settings = None, seed: Seed = 0, folder: Folder = Path("demo")) -> None:
    """Run a small federation on this machine: three hospitals, and one that joins later.

    It takes 90 seconds on two cores, and ends with a table and a report. Coordinator and
    hospitals are processes with TLS and keys. Their images are a real brain under simulated
    scanners.

    Example: [bold]polyclinic-server demo --folder demo[/bold]
    """
    from polyclinic_demos.quick import run_quick_demo

    check_brain()
    run_quick_demo(seed, folder, overrides or [], console)


@app.command(name="demo-full", rich_help_panel=PANEL)
def demo_full(
    overrides: Settings = None,
    sites: Annotated[int, typer.Option(min=2, max=6, help="Number of hospitals.")] = 6,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="Rounds of every strategy. Default: as the experiment says."),
    ] = None,
    subjects: Subjects = 4,
    seed: Seed = 0,
    folder: Folder = Path("demo"),
) -> None:
    """Tell the whole story: averaging, merging, refinement, newcomers, a departure, pooling.

    Example: [bold]polyclinic-server demo-full --sites 3 --rounds 3[/bold]
    """
    from polyclinic_demos.refinement import run_full_demo

    check_brain()
    run_full_demo(sites, rounds, subjects, seed, folder, overrides or [], console)


@app.command(name="demo-merging", rich_help_panel=PANEL)
def demo_merging(
    overrides: Settings = None,
    cohort: Annotated[
        str,
        typer.Option(
            help="brain: six simulated scanners; cells: three laboratories in POLYCLINIC_DATA."
        ),
    ] = "brain",
    subjects: Subjects = 4,
    seed: Seed = 0,
    folder: Folder = Path("demo"),
) -> None:
    """Merge contributions that come at any time, while processes are killed and come back.

    Example: [bold]polyclinic-server demo-merging --subjects 2[/bold]
    """
    from polyclinic.errors import ConfigError
    from polyclinic_demos.merging import run_merging_demo

    if cohort not in ("brain", "cells"):
        raise ConfigError(f"--cohort {cohort}: brain or cells.")
    if cohort == "brain":
        check_brain()
    run_merging_demo(cohort, subjects, seed, folder, overrides or [], console)


@app.command(name="demo-proxy", rich_help_panel=PANEL)
def demo_proxy(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SETTING=VALUE]...", help="Passed on to `train-proxy`."),
    ] = None,
    subjects: Annotated[
        tuple[int, int, int],
        typer.Option(help="People to train with, whom attackers know, and to be recognized."),
    ] = (8, 12, 12),
    visits: Annotated[int, typer.Option(min=2, help="Visits of each person.")] = 2,
    full: Annotated[
        bool, typer.Option(help="Train and attack as long as `train-proxy` does; about an hour.")
    ] = False,
    seed: Seed = 0,
    folder: Folder = Path("demo"),
) -> None:
    """Segment warped scans: training, attackers, a service and a client; ends with a report.

    Example: [bold]polyclinic-server demo-proxy training.proxy.steps=2000[/bold]
    """
    from polyclinic_demos.proxy import run_proxy_demo
    from polyclinic_strategies.proxy.commands import show_result

    check_brain()
    run_proxy_demo(subjects, visits, seed, folder, overrides or [], console, full=full)
    show_result(folder / "proxy", console)
