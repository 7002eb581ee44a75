"""Self-contained HTML pages: how templates become a page, and how a page is written.

A page loads nothing: charts and pictures are inside it. What came from hospitals is escaped.
"""

import os
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from polyclinic.errors import RunError

TEMPLATES = Path(__file__).parent / "templates"
TERMINAL_WIDTH = 100
PNG = b"\x89PNG\r\n\x1a\n"


def write_page(folder: Path, page: str) -> Path:
    """Write report.html, all of it or nothing, and return its path.

    Raises:
        RunError: The folder cannot be written to.
    """
    path = folder / "report.html"
    unfinished = folder / f".report.html.{os.getpid()}"
    try:
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise RunError(f"{path}: cannot be written ({error.strerror}).") from error
    return path


def make_environment(*folders: Path) -> Environment:
    """Make pages of templates in these folders: what came from hospitals is escaped, a missing value is an error."""
    return Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
