"""Write the images' requirements, each file of a package by its hash: `python docker/lock.py`.

Resolved by uv for Python 3.11 on Linux, from pyproject.toml and constraints.txt:

- requirements-client.txt, what a hospital needs, and the coordinator, too;
- requirements-server.txt, the same and what the coordinator needs on top of it;
- requirements-demo.txt, the files of the average brain, for the simulated patients;
- requirements-torch.txt, torch of the default index and CUDA's libraries, which it asks for. They
  are apart because a build for the CPU takes torch from somewhere else.

Versions in files that are there stay as they are; `--upgrade` takes the newest.
"""

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path("docker")
UV = [
    *("uv", "pip", "compile", "--quiet", "--no-config", "--no-annotate", "--no-header"),
    *("--generate-hashes", "--prerelease", "disallow", "--constraint", "constraints.txt"),
    *("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"),
]
OF_TORCH = re.compile(r"(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==")
LEFT_OUT = ("uv", "setuptools")  # installers; what asks for them here works without
MADE_BY = "# Written by `make lock`; not to be edited.\n"


def resolve(source: str, *arguments: str) -> list[str]:
    """Return the requirements that fit together, each with its hashes."""
    command = [*UV, *arguments, source]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return re.findall(r"^[^\s#].*\n(?:    .*\n)*", done.stdout, re.MULTILINE)


def write(name: str, requirements: list[str]) -> Path:
    """Write a file, without what is left out."""
    kept = [text for text in requirements if text.partition("==")[0] not in LEFT_OUT]
    path = FOLDER / f"requirements-{name}.txt"
    path.write_text(MADE_BY + "".join(kept))
    sys.stdout.write(f"{path}: {len(kept)} packages\n")
    return path


def main(*, upgrade: bool) -> None:
    """Write the files."""
    files = [FOLDER / f"requirements-{name}.txt" for name in ("server", "torch", "demo")]
    kept = [] if upgrade else [str(file) for file in files if file.exists()]
    known = [word for file in kept for word in ("--constraint", file)]
    every = resolve("pyproject.toml", "--extra", "server", "--extra", "postgresql", *known)
    torch = [text for text in every if OF_TORCH.match(text)]
    server = write("server", [text for text in every if text not in torch])
    both = ("--constraint", str(server), "--constraint", str(write("torch", torch)))
    client = resolve("pyproject.toml", "--extra", "client", *both)
    write("client", [text for text in client if not OF_TORCH.match(text)])
    atlas = resolve("pyproject.toml", "--extra", "atlas", *both, *known)
    write("demo", [text for text in atlas if text.startswith("nilearn==")])


if __name__ == "__main__":
    main(upgrade="--upgrade" in sys.argv[1:])
