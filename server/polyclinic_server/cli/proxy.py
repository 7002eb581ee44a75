"""`polyclinic-server train-proxy` and `demo-proxy`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(highlight=False)
DATA, LESIONS = "data=", "lesions="

TRAIN_HELP = """Train the deformation proxy: a generator for the hospitals, a segmenter for the service, and a report of what it hides.

data=FOLDER names a cohort with several visits of everybody (several folders: data=A,B): dataset.json gives each case a "subject".
Its training cases train all three networks, the people under 'validation' are those whom attackers know, those under 'test' are to
be recognized. lesions=FOLDER names a cohort whose people have lesions, to attack as well. Interrupted, the same command goes on.

Examples:

[bold]polyclinic-server train-proxy data=/data/visits --out proxy[/bold]

[bold]polyclinic-server train-proxy data=/data/visits training.proxy.steps=2000 training.proxy.adversarial=1[/bold]

Then: [bold]polyclinic-server segment-service --model proxy/segmenter.safetensors[/bold]; hospitals get proxy/generator.safetensors."""


def train_proxy(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="data=FOLDER [SETTING=VALUE]...", help="See the examples."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("proxy"),
    restarts: Annotated[
        int, typer.Option(min=1, help="Of every attacker; the strongest counts.")
    ] = 3,
    keys: Annotated[
        int, typer.Option(min=2, help="Proxies of every visit that attackers get.")
    ] = 4,
    scored: Annotated[
        int,
        typer.Option(
            min=1, help="Test scans that are segmented, directly and through their proxies."
        ),
    ] = 8,
) -> None:
    """See TRAIN_HELP."""
    from polyclinic.errors import ConfigError
    from polyclinic_strategies.proxy.train import Orders, Others
    from polyclinic_strategies.proxy.train import train_proxy as train

    texts = settings or []
    folders = [
        Path(name)
        for text in texts
        if text.startswith(DATA)
        for name in text.removeprefix(DATA).split(",")
    ]
    lesions = [Path(text.removeprefix(LESIONS)) for text in texts if text.startswith(LESIONS)]
    if not folders:
        raise ConfigError(
            "train-proxy: name the cohort's folder, data=FOLDER; it holds dataset.json."
        )
    overrides = tuple(text for text in texts if not text.startswith((DATA, LESIONS)))
    train(
        Orders(
            tuple(folders),
            out,
            overrides,
            tuple(map(Others.with_lesions, lesions)),
            restarts,
            keys,
            scored,
        ),
        console,
    )
    _show(out)


def demo_proxy(
    subjects: Annotated[
        tuple[int, int, int],
        typer.Option(help="People to train with, whom attackers know, and to be recognized."),
    ] = (
        16,
        24,
        24,
    ),
    visits: Annotated[int, typer.Option(min=2, help="Of everybody.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of the data and of the training.")] = 0,
    folder: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("demo"),
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SETTING=VALUE]...", help="Passed on to `train-proxy`."),
    ] = None,
) -> None:
    """The deformation proxy on this machine: people who come twice, training, attackers, a service and a client; ends with a report."""
    from polyclinic_demos.proxy import run_proxy_demo

    run_proxy_demo(subjects, visits, seed, folder, overrides or [], console)
    _show(folder / "proxy")


def _show(out: Path) -> None:
    from polyclinic_strategies.proxy.report.page import write_proxy_report
    from polyclinic_strategies.proxy.report.tables import proxy_tables

    path = write_proxy_report(out)
    for table in proxy_tables(out):
        console.print(table)
    console.print(f"report: {path}", markup=False)
