"""Which packages each image installs, from pyproject.toml: `python requirements.py FOLDER` writes shared.txt, server.txt and demo.txt.

Both images get `shared.txt` in one common layer; the coordinator's gets `server.txt` on top of it.
"""

import re
import sys
import tomllib
from pathlib import Path

SERVER_ONLY = {"jinja2", "tensorboard"}  # report and figures
DEMO_ONLY = {"nilearn"}  # of it only the average brain's two files are read


def name_of(requirement: str) -> str:
    """The package's name without extras and versions."""
    return re.split(r"[\s\[<>=!~;(]", requirement, maxsplit=1)[0].lower()


def main(folder: Path) -> None:
    """Divide the project's requirements."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    needed: list[str] = project["dependencies"]
    apart = SERVER_ONLY | DEMO_ONLY
    if unknown := apart - {name_of(text) for text in needed}:
        sys.exit(
            f"docker/requirements.py names packages that pyproject.toml does not: {', '.join(sorted(unknown))}"
        )
    files = {
        "shared.txt": [text for text in needed if name_of(text) not in apart],
        "server.txt": [text for text in needed if name_of(text) in SERVER_ONLY]
        + project["optional-dependencies"]["postgresql"],
        "demo.txt": [text for text in needed if name_of(text) in DEMO_ONLY],
    }
    for name, lines in files.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
