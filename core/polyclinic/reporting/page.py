"""Self-contained HTML pages: how templates become a page, and how a page is written.

A page loads nothing: charts and pictures are inside it. What came from hospitals is escaped.
Templates may import the macros of chart.html.j2 and marks.html.j2.
"""

import os
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from polyclinic.errors import RunError
from polyclinic.reporting import formats

TEMPLATES = Path(__file__).parent / "templates"
FILTERS = {
    "score": formats.show_score,
    "difference": formats.show_difference,
    "figure": formats.show_figure,
    "percent": formats.show_percent,
    "share": formats.show_share,
    "mm": formats.show_mm,
    "date": formats.show_date,
    "rounds": formats.show_rounds,
    "span": formats.show_span,
    "seconds": formats.show_seconds,
    "bytes": formats.show_bytes,
    "each_bytes": formats.list_bytes,
}


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
    """Make what turns templates in these folders into text.

    Everything is escaped. A value that is missing is an error.
    """
    environment = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    environment.globals |= {
        "interval": formats.show_interval,
        "range_of": formats.show_range,
        "plural": formats.plural,
        "were": formats.were,
    }
    return environment
