"""Where `polyclinic-client import` finds its series: a folder, or a PACS."""

import shutil
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import Progress

from polyclinic.errors import ConfigError
from polyclinic_client.dicom.errors import NothingFound
from polyclinic_client.dicom.importing.site_map import SiteMap
from polyclinic_client.dicom.pacs import Pacs, wanted_studies
from polyclinic_client.dicom.reading.finding import Findings, find_series

AT_ONCE = 2  # series
DOWNLOADS = "downloads"  # in the site's own folder: the files hold names of patients


def series_of(
    dicom: Path | None, pacs: str | None, studies: list[str], site: SiteMap, console: Console
) -> tuple[Findings, Literal["folder", "PACS"]]:
    """Find the series that the options name, and say where they came from.

    Raises:
        ConfigError: Neither or both of folder and PACS are named, or studies without a PACS.
        NothingFound: There are none.
    """
    if (dicom is None) == (pacs is None) or (studies and pacs is None):
        raise ConfigError("Name one source: --dicom FOLDER, or --pacs URL with --studies.")
    if dicom is not None:
        return look_through(dicom, console), "folder"
    folder = fetch_studies(Pacs(str(pacs)), studies, site.folder / DOWNLOADS, site, console)
    return look_through(folder, console), "PACS"


def look_through(folder: Path, console: Console) -> Findings:
    """Look at every file of a folder, and show how far it is."""
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("looking at files", total=None)
        return find_series(
            folder, lambda done, total: progress.update(task, completed=done, total=total)
        )


def fetch_studies(
    pacs: Pacs, studies: list[str], downloads: Path, site: SiteMap, console: Console
) -> Path:
    """Fetch the series of studies that are not here yet, two at a time; return their folder.

    Raises:
        ConfigError: No study is named.
        NothingFound: The PACS has none of them.
        PacsUnreachable, PacsRefused: It does not give one; those fetched before are kept.
    """
    with console.status("asking the PACS") as status:
        uids = wanted_studies(
            pacs, studies, lambda count: status.update(f"asking the PACS, {count} studies")
        )
        wanted = [each for uid in uids for each in pacs.list_series(uid)]
    if not wanted:
        raise NothingFound(pacs.url, "it has no such study", "Check --studies.")
    chosen = sorted({site.name("study", uid) for uid in uids})
    place = downloads / site.name("download", " ".join(chosen))
    waiting = [(each, place / site.name("series", each.series)) for each in wanted]
    waiting = [(each, folder) for each, folder in waiting if not folder.exists()]
    with Progress(console=console) as progress, ThreadPoolExecutor(AT_ONCE) as pool:
        task = progress.add_task("fetching series", total=len(waiting))
        futures = [pool.submit(pacs.fetch, each, folder) for each, folder in waiting]
        try:
            for future in as_completed(futures):
                future.result()
                progress.advance(task)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return place


def forget_downloads(site: SiteMap) -> None:
    """Remove what was fetched from a PACS: the import is done."""
    shutil.rmtree(site.folder / DOWNLOADS, ignore_errors=True)
