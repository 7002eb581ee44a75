"""Where `polyclinic-client import` finds its series: a folder, or a PACS."""

from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import Progress

from polyclinic.errors import ConfigError
from polyclinic_client.dicom.importing.site_map import SiteMap
from polyclinic_client.dicom.reading.finding import Findings, find_series

DOWNLOADS = "downloads"  # in the site's own folder: the files hold names of patients


def series_of(
    dicom: Path | None, pacs: str | None, studies: list[str], site: SiteMap, console: Console
) -> tuple[Findings, Literal["folder", "PACS"]]:
    """Find the series that the options name, and say where they came from.

    Raises:
        ConfigError: Neither or both of folder and PACS are named.
        NothingFound: There are none.
    """
    if (dicom is None) == (pacs is None):
        raise ConfigError("Name one source: --dicom FOLDER, or --pacs URL with --studies.")
    if dicom is not None:
        return look_through(dicom, console), "folder"
    raise ConfigError("--pacs")


def look_through(folder: Path, console: Console) -> Findings:
    """Look at every file of a folder, and show how far it is."""
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("looking at files", total=None)
        return find_series(
            folder, lambda done, total: progress.update(task, completed=done, total=total)
        )
