"""The reference of the settings, made from the YAML files of `conf/`.

`<!-- settings: GROUP -->` on a line of its own is replaced by every file of that group:
what its comments say, what it builds on, and a table of its settings with their defaults.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).resolve().parent.parent.parent / "conf"
MARKER = re.compile(r"^<!-- settings: (\S+) -->$", re.MULTILINE)
COMMENT = re.compile(r"(?:^|\s)#\s?(.*)$")
GIVEN_ELSEWHERE = ("defaults",)
# where the settings of a group lie in the configuration, if not under the group's own name
PREFIXES = {"": "", "experiment": "", "shifts": "training.shifts."}
PREFIXES = {"shifts": "training.shifts"}  # a part of every training


@dataclass(frozen=True)
class SettingLine:
    """One setting of a file: its dotted name, its default as YAML, and its comment."""

    name: str
    default: str
    comment: str


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Fill in the files of a group."""
    del page
    return MARKER.sub(lambda found: render(found[1]), markdown)


def render(group: str) -> str:
    """Write the reference of one group as Markdown; `config` is the file above all groups."""
    if group == "config":
        return describe(CONF / "config.yaml", "")
    folder = CONF / group
    return "\n\n".join(
        f"#### `{PREFIXES.get(group, group)}={path.relative_to(folder).with_suffix('')}`\n\n"
        f"{describe(path, group)}"
        for path in sorted(folder.rglob("*.yaml"))
    )


def describe(path: Path, group: str) -> str:
    """Write what one file says."""
    text = path.read_text(encoding="utf-8")
    tree = yaml.safe_load(text) or {}
    first, *said = header(text)
    parts = [f"```sh\n{first}\n```", " ".join(said)]
    based = [entry for entry in tree.get("defaults", []) if group and entry != "_self_"]
    if based:
        parts.append(f"Starts from: {', '.join(f'`{plain(entry)}`' for entry in based)}.")
    prefix = "" if not group or group == "experiment" else f"{PREFIXES.get(group, group)}."
    rows = [
        f"| `{prefix}{line.name}` | `{line.default}` | {line.comment} |"
        for line in settings(text)
        if line.name.split(".")[0] not in GIVEN_ELSEWHERE
    ]
    if rows:
        parts.append("\n".join(["| setting | default | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(part for part in parts if part)


def header(text: str) -> list[str]:
    """Read the comment that opens a file; its first line is the command that uses the file."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").rstrip())
    kept = [line for line in lines if not line.startswith("@package")]
    return kept or [""]


def settings(text: str) -> Iterator[SettingLine]:
    """Read the settings of a file with their comments."""
    node = yaml.compose(text)
    lines = text.splitlines()
    for number in range(len(lines)):  # the header speaks of the file, not of its first setting
        if not lines[number].startswith("#"):
            break
        lines[number] = ""
    if isinstance(node, yaml.MappingNode):
        yield from leaves(node, "", lines)


def leaves(node: yaml.MappingNode, prefix: str, lines: list[str]) -> Iterator[SettingLine]:
    """List the settings below a node; a node with `_target_` is one of them, and so are its own."""
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        comment = comment_of(key, value, lines)
        block = isinstance(value, yaml.MappingNode) and not value.flow_style
        if block and isinstance(value, yaml.MappingNode):
            if comment:
                yield SettingLine(name, "...", comment)
            yield from leaves(value, f"{name}.", lines)
        else:
            yield SettingLine(name, default_of(value), comment)


def default_of(value: yaml.Node) -> str:
    """Write a value on one line, as YAML."""
    tree = yaml.safe_load(yaml.serialize(value))
    return yaml.safe_dump(tree, default_flow_style=True, width=10_000).replace("\n...", "").strip()


def comment_of(key: yaml.Node, value: yaml.Node, lines: list[str]) -> str:
    """Find the comment of a setting: behind it, or on the lines above it."""
    end = key if isinstance(value, yaml.CollectionNode) and not value.flow_style else value
    line = lines[end.end_mark.line] if end.end_mark.line < len(lines) else ""
    behind = COMMENT.search(line[end.end_mark.column :])
    if behind:
        return escape(behind[1])
    above: list[str] = []
    for number in range(key.start_mark.line - 1, -1, -1):
        text = lines[number].strip()
        if not text.startswith("#"):
            break
        above.insert(0, text.lstrip("# "))
    return escape(" ".join(above))


def escape(text: str) -> str:
    """Keep a text inside its cell."""
    return text.strip().replace("|", "\\|").replace("<", "&lt;")


def plain(entry: object) -> str:
    """Write an entry of `defaults` as Hydra reads it."""
    if isinstance(entry, dict):
        return ", ".join(f"{key}: {value}" for key, value in entry.items())
    return str(entry)
