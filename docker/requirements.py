"""Divide what the project requires between the images: `python requirements.py FOLDER`.

Reads the extras of pyproject.toml and writes three files of requirements:

- shared.txt, for both images' common layer: the base, and what a hospital needs;
- server.txt, what the coordinator needs on top of it, with a ledger in PostgreSQL;
- demo.txt, what the simulated patients need on top of that.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

OWN = re.compile(r"polyclinic\[(?P<extras>.*)\]$")


def expanded(project: dict[str, Any], extra: str) -> list[str]:
    """List an extra's requirements, those of the extras that it names included."""
    found: list[str] = []
    for text in project["optional-dependencies"][extra]:
        if named := OWN.match(text):
            for other in named["extras"].split(","):
                found += expanded(project, other)
        else:
            found.append(text)
    return found


def divide(project: dict[str, Any]) -> dict[str, list[str]]:
    """Return each file's requirements; none is in two files."""
    wanted = {
        "shared.txt": project["dependencies"] + expanded(project, "client"),
        "server.txt": expanded(project, "server") + expanded(project, "postgresql"),
        "demo.txt": expanded(project, "demos"),
    }
    seen: set[str] = set()
    files: dict[str, list[str]] = {}
    for name, texts in wanted.items():
        files[name] = [text for text in dict.fromkeys(texts) if text not in seen]
        seen.update(files[name])
    return files


def main(folder: Path) -> None:
    """Write the files."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    for name, lines in divide(project).items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
