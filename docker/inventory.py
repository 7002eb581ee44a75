"""Print what is installed in an image, as JSON; `make sbom` runs this inside each image."""

import json
import subprocess
import sys
from importlib.metadata import distributions

FIELDS = "${Package}\\t${Version}\\t${Architecture}\\n"


def main() -> None:
    """List Python packages and Debian packages."""
    python = sorted(
        {
            (found.metadata["Name"], found.version, found.metadata["License-Expression"] or "")
            for found in distributions()
        }
    )
    listed = subprocess.run(
        ["dpkg-query", "-W", "-f", FIELDS], capture_output=True, text=True, check=True
    ).stdout
    debian = [line.split("\t") for line in listed.splitlines()]
    json.dump(
        {"interpreter": sys.version.split()[0], "python": python, "debian": debian}, sys.stdout
    )


if __name__ == "__main__":
    main()
