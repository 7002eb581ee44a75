"""The reference of the command lines, made from the typer applications.

`<!-- commands: polyclinic-server -->` on a line of its own is replaced by all commands of that
program, with usage, text, arguments and options.
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import click
import typer

MARKER = re.compile(r"^<!-- commands: (\S+) -->$", re.MULTILINE)
PROGRAMS = {
    "polyclinic-server": "polyclinic_server.cli.main",
    "polyclinic-client": "polyclinic_client.cli.main",
}


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Fill in the commands of a program."""
    del page
    return MARKER.sub(lambda found: render(found[1]), markdown)


def render(program: str) -> str:
    """Write the reference of one program as Markdown."""
    return "\n\n".join(
        section(f"{program} {name}".strip(), command) for name, command in commands(program)
    )


def commands(program: str) -> Iterator[tuple[str, click.Command]]:
    """List the commands of a program, without those that only hold others."""
    root = typer.main.get_command(importlib.import_module(PROGRAMS[program]).app)
    yield from walk(root, "")


def walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """List a command and those below it, in the order of its help."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for child in command.list_commands(context):
        below = command.get_command(context, child)
        if below is not None:
            yield from walk(below, f"{name} {child}".strip())


def section(called: str, command: click.Command) -> str:
    """Write one command."""
    context = click.Context(command, info_name=called)
    lines = [f"### `{called}`", "", *paragraphs(command.help or ""), ""]
    usage = " ".join(command.collect_usage_pieces(context))
    lines += ["```text", f"{called} {usage}", "```", ""]
    rows = [row(parameter, context) for parameter in command.params if is_shown(parameter)]
    if rows:
        lines += ["| argument or option | meaning | default |", "|---|---|---|", *rows]
    return "\n".join(lines)


def is_shown(parameter: click.Parameter) -> bool:
    """Tell whether a parameter belongs into the reference."""
    return not getattr(parameter, "hidden", False) and parameter.name != "help"


def paragraphs(text: str) -> list[str]:
    """Translate help with typer's marks to Markdown."""
    plain = inspect.cleandoc(text)
    plain = re.sub(r"\[bold\](.*?)\[/bold\]", lambda found: f"`{found[1]}`", plain, flags=re.S)
    return plain.replace("\b", "").replace(r"\[", "[").splitlines()


def row(parameter: click.Parameter, context: click.Context) -> str:
    """Write one argument or option."""
    if isinstance(parameter, click.Option):
        names = ", ".join([*parameter.opts, *parameter.secondary_opts])
        metavar = "" if parameter.is_flag else f" {parameter.make_metavar(context)}"
        called, text = f"`{names}{metavar}`", parameter.help or ""
    else:
        called, text = f"`{parameter.make_metavar(context)}`", getattr(parameter, "help", "") or ""
    if parameter.required:
        default = "required"
    elif isinstance(parameter.default, bool) or parameter.default is None:
        default = ""
    else:
        default = f"`{parameter.default}`"
    text = re.sub(r"\[/?bold\]", "`", " ".join(text.split())).replace("|", "\\|")
    return f"| {called.replace('|', chr(92) + '|')} | {text} | {default} |"
