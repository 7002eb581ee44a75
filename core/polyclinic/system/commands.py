"""Command lines, built of the commands that installed packages offer."""

from collections.abc import Iterable
from importlib import import_module
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperGroup

from polyclinic.system.plugins import COMMANDS, offered, resolve

DEMOS = "Demos"  # panel of the help
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SETTING=VALUE]...", help="Hydra settings, as in the examples."),
]
Insecure = Annotated[
    bool,
    typer.Option("--insecure", help="Use neither TLS nor keys; only this machine can connect."),
]
NO_KEYS = "deployment.insecure=true"  # the same as a setting


class InOrder(TyperGroup):
    """Group whose help lists commands in the order of use: those in `order`, then the others."""

    order: ClassVar[tuple[str, ...]] = ()

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands' names in the order of use."""
        names = super().list_commands(ctx)
        places = {name: place for place, name in enumerate(self.order)}
        return sorted(names, key=lambda name: places.get(name, len(places)))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, with a help text that is wrapped at the terminal's width."""
        command = super().get_command(ctx, cmd_name)
        if command is not None and command.help:
            command.help = join_lines(command.help)
        return command


def join_lines(text: str) -> str:
    """Join the lines of each paragraph, which typer would otherwise keep apart in a help text."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def add_commands(app: typer.Typer, references: Iterable[str]) -> None:
    """Add the commands of typer apps, given as `package.module:name`, to a command line."""
    for reference in references:
        app.add_typer(resolve(reference))


def add_installed_commands(app: typer.Typer) -> None:
    """Add the commands of the entry points `polyclinic.commands`.

    An entry point whose package is missing is skipped: the hospital's image, for example, has no
    demos.
    """
    for entry in offered(COMMANDS).values():
        try:
            import_module(entry.module.partition(".")[0])
        except ModuleNotFoundError:
            continue
        app.add_typer(entry.load())


def unwrap(text: str) -> str:
    """Join the lines of each paragraph of a help text, so that any terminal breaks them itself."""
    return "\n\n".join(" ".join(part.split("\n")) for part in text.strip().split("\n\n"))
