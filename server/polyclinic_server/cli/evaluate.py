"""`polyclinic-server evaluate`: a run that trains nothing."""

import re
from pathlib import Path
from typing import Annotated

import typer

from polyclinic.system.commands import NO_KEYS, Insecure
from polyclinic.system.console import LineConsole
from polyclinic_server.cli.options import Resume, RunName

console = LineConsole()

EVALUATE_HELP = """Let every hospital score models on its own cases, and compare them. Nothing is
trained.

MODEL is a safetensors file: of a run (runs/NAME/arms/STRATEGY/model.safetensors), of `export`,
`merge` or `refine`, or of a hospital. All must have the same labels. Hospitals join as for a run,
and score on their test cases, or on their validation cases where they have no labelled test case.
Measures with support and intervals come back, never a case's.

The report shows the worst hospital first. Each model gets a card, as a page and as JSON, in
runs/NAME/arms/MODEL/.

Examples:

[bold]polyclinic-server evaluate runs/first/arms/fedavg/model.safetensors[/bold]

[bold]polyclinic-server evaluate old.safetensors new.safetensors deployment.hospitals=4[/bold]

[bold]polyclinic-server evaluate --resume latest[/bold]"""


def evaluate(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]... [SETTING=VALUE]...",
            help="Files of models, and settings of the deployment.",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            metavar="MM",
            help="Distance at which surfaces count as equal. Default: as the models' settings say.",
        ),
    ] = None,
    name: RunName = None,
    resume: Resume = None,
    insecure: Insecure = False,
) -> None:
    """Evaluate models; the help text is EVALUATE_HELP."""
    from polyclinic.errors import ConfigError
    from polyclinic_server.service.hand_over import run_to_its_end

    settings = [word for word in words or () if re.match(r"deployment[.=]", word)]
    models = [word for word in words or () if word not in settings]
    more = [*settings, *([NO_KEYS] if insecure else [])]
    for word in models:
        if re.match(r"[\w.]+=", word) and not Path(word).exists():
            raise ConfigError(
                f"{word}: an evaluation takes settings of the deployment alone, such as "
                "deployment.hospitals=4. The others are the models'."
            )
    if resume is not None:
        if models or tolerance is not None:
            raise ConfigError("An evaluation resumes with its own models and tolerance.")
        run_to_its_end(more, None, resume, console)
        return
    with console.status("reading the models"):
        from polyclinic_strategies.evaluation.models import read_models, settings_of

        asked = settings_of(read_models(models, tolerance), tolerance)
    folder = run_to_its_end([*asked, *more], name, None, console)
    for card in sorted((folder.path / "arms").glob("*/model-card.html")):
        console.print(f"model card: {card}", markup=False)
