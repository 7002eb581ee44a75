"""Commands, options and settings that the documentation names exist."""

import re
import shlex
from collections.abc import Iterator

import click
import pytest
import typer

from polyclinic.config.compose import GROUPS, list_names
from tests.docs.pages import DOCS, ROOT, code_blocks, hook, pages, prose

PROGRAM = re.compile(r"^(?:\w+=\S+ )*polyclinic(-server|-client)?$")
INLINE = re.compile(r"`([^`\n]+)`")
CHOICE = re.compile(
    rf"(?:^|[\s'\"`(])({'|'.join(GROUPS)})=([a-z][\w,/]*)(?=$|[\s'\"`),.;:])(?!\.yaml)"
)
HISTORY = "CHANGELOG.md"  # what older versions had is named there
OWN = {"median", "clipping"}  # what the tutorials add


def lines_of_code() -> Iterator[tuple[str, str]]:
    """Every line of a shell, and every piece of code in a sentence, with its page."""
    for page in pages():
        name = page.relative_to(ROOT).as_posix()
        if name == HISTORY:
            continue
        for block in code_blocks(page):
            if block.language in ("sh", ""):
                for line in block.text.replace("\\\n", " ").splitlines():
                    yield name, line
        for line in INLINE.findall(prose(page)):
            yield name, line
    for line in (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.startswith("\t$(BIN)/polyclinic"):
            yield "Makefile", re.sub(r"\$\(if [^)]*\),?|[()$]", " ", line[8:])


def commands() -> list[tuple[str, str, tuple[str, ...]]]:
    """Calls of the two programs: page, program, words."""
    found = []
    for page, line in lines_of_code():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a piece of a sentence
            continue
        if words and PROGRAM.match(words[0]) and len(words) > 1:
            program = words[0] if words[0] != "polyclinic" else "polyclinic-server"
            found.append((page, program, tuple(words[1:])))
    return found


def app_of(program: str) -> click.Command:
    module = hook("commands").PROGRAMS[program]
    return typer.main.get_command(__import__(module, fromlist=["app"]).app)


@pytest.mark.parametrize("program", ["polyclinic-server", "polyclinic-client"])
def test_commands_and_their_options_exist(program: str) -> None:
    root, calls = app_of(program), [call for call in commands() if call[1] == program]
    assert len(calls) > 20
    for page, _, words in calls:
        if words[0].isupper() or words[0] in ("|", "...", "--help"):
            continue
        command, rest = resolve(root, list(words), page)
        known = {name for parameter in command.params for name in parameter.opts}
        for word in rest:
            if word in ("|", ">", "&&"):
                break
            if word.startswith("--") and word != "--help":
                assert word.partition("=")[0] in known, f"{page}: {' '.join(words)}: {word}"
            elif "=" in word and word.partition("=")[0] not in GROUPS:
                # what is an option is not a setting
                option = f"--{word.partition('=')[0]}"
                assert option not in known, f"{page}: {' '.join(words)}: {word}"


def resolve(command: click.Command, words: list[str], page: str) -> tuple[click.Command, list[str]]:
    """Find the command that words call, and what is left of them."""
    while isinstance(command, click.Group):
        if not words or words[0].startswith("-"):
            break
        context = click.Context(command)
        try:
            _, below, words = command.resolve_command(context, words)
        except click.UsageError as error:
            raise AssertionError(f"{page}: {' '.join(words)}: {error.message}") from error
        assert below is not None, f"{page}: {words}"
        command = below
    return command, words


def test_names_of_settings_exist() -> None:
    seen = 0
    known = {group: {*list_names(group)} for group in GROUPS}
    for page, line in lines_of_code():
        for group, value in CHOICE.findall(line):
            for name in value.rstrip("/").split(","):
                short = name.partition("/")[2] or name
                if short in OWN or short.isupper():  # NAME stands for any name
                    continue
                folder = any(each.startswith(f"{name}/") for each in known[group])
                assert name in known[group] or folder, f"{page}: {group}={name}"
                seen += 1
    assert seen > 50


def test_python_in_pages_compiles() -> None:
    seen = 0
    for page in pages():
        for block in code_blocks(page):
            if block.language == "python":
                compile(block.text, f"{page.name}: {block.title}", "exec")
                seen += 1
    assert seen > 5


def test_the_reference_of_commands_is_complete() -> None:
    for program in ("polyclinic-server", "polyclinic-client"):
        module = hook("commands")
        text = module.render(program)
        for name, command in module.commands(program):
            assert f"### `{program} {name}`" in text
            for parameter in command.params:
                if module.is_shown(parameter) and isinstance(parameter, click.Option):
                    assert f"`{', '.join([*parameter.opts, *parameter.secondary_opts])}" in text
        page = {"polyclinic-server": "server.md", "polyclinic-client": "client.md"}[program]
        assert module.MARKER.search((DOCS / "reference" / page).read_text(encoding="utf-8"))


def test_the_reference_of_settings_is_complete() -> None:
    module = hook("settings")
    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    folder = ROOT / "conf"
    groups = {path.name for path in folder.iterdir() if path.is_dir()}
    assert set(GROUPS) <= groups
    assert sorted(module.MARKER.findall(page)) == sorted(["config", *groups])
    for group in groups:
        text = module.render(group)
        for path in (folder / group).rglob("*.yaml"):
            name = path.relative_to(folder / group).with_suffix("")
            assert f"#### `{module.PREFIXES.get(group, group)}={name}`" in text
    (rounds,) = module.settings("# a file\nrounds: 5  # of all\n")
    assert (rounds.name, rounds.default, rounds.comment) == ("rounds", "5", "of all")
    (nested,) = module.settings("a:\n  # above\n  # two lines\n  b: [1, 2]\n")
    assert (nested.name, nested.default, nested.comment) == ("a.b", "[1, 2]", "above two lines")


def test_the_reference_of_errors_is_complete() -> None:
    from polyclinic.errors import PolyclinicError

    module = hook("errors")
    text = module.render()
    errors = [error for _, error in module.tree(PolyclinicError)]
    assert len(errors) > 40
    for error in errors:
        assert re.search(rf"`{error.__name__}` \| {error.exit_code} \|", text)


def test_drawings_are_what_their_program_draws() -> None:
    import importlib.util

    path = DOCS / "images" / "draw.py"
    spec = importlib.util.spec_from_file_location("docs_images_draw", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    for name, draw in module.DRAWINGS.items():
        assert (DOCS / "images" / name).read_text(encoding="utf-8") == draw().svg()


def test_what_the_reference_shows_exists() -> None:
    import pydoc

    shown = [
        (page.name, name)
        for page in (DOCS / "reference").glob("*.md")
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert len(shown) > 5
    for page, name in shown:
        assert pydoc.locate(name) is not None, f"{page}: {name}"


def test_the_reference_of_the_api_shows_every_public_name() -> None:
    import polyclinic

    text = hook("api").render()
    for name in getattr(polyclinic, "__all__", ()):
        value = getattr(polyclinic, name)
        assert f"::: {value.__module__}.{value.__qualname__}\n" in text
