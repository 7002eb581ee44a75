"""`polyclinic-client import`: from DICOM to a data folder."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from polyclinic.system.commands import unwrap
from polyclinic.system.console import LineConsole

IMPORT_HELP = unwrap("""Make a data folder of DICOM series: images, labels, dataset.json.

Looks at every file, shows what would become which channel and what is left out and why, and asks
before it writes. The first time it proposes a series.yaml: edit it, and the next import goes by it.
Labels come from DICOM SEG and RTSTRUCT. Patients get names of this hospital's making; key and map
stay in --site-map. An interrupted import can be repeated: it goes on where it was.

Examples:

[bold]polyclinic-client import --dicom /export/2024 --out /data/brain[/bold]

[bold]polyclinic-client import --pacs https://pacs.example.org/dicom-web --studies studies.txt
--out /data/brain[/bold]""")


def import_data(
    out: Annotated[Path, typer.Option("--out", help="The data folder; made if need be.")],
    dicom: Annotated[
        Path | None,
        typer.Option("--dicom", metavar="FOLDER", help="Folder with DICOM files, at any depth."),
    ] = None,
    pacs: Annotated[
        str | None,
        typer.Option("--pacs", metavar="URL", help="Address of a PACS's DICOMweb service."),
    ] = None,
    studies: Annotated[
        list[str] | None,
        typer.Option(
            "--studies",
            metavar="WHICH",
            help="With --pacs: a StudyInstanceUID, a file of them (one a line), or a search such "
            "as StudyDate=20240101-20240131; several times.",
        ),
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(
            "--mapping",
            metavar="FILE",
            help="What becomes which channel and label. Default: series.yaml in --site-map, in a "
            "folder named as --out.",
        ),
    ] = None,
    site_map: Annotated[
        Path | None,
        typer.Option(
            "--site-map",
            envvar="POLYCLINIC_SITE_MAP",
            metavar="FOLDER",
            help="This hospital's own folder: key and map of patients' names; never share it. "
            "Default: ~/.local/state/polyclinic/dicom.",
        ),
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Only show what would be imported.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask: the preview was looked at.")
    ] = False,
    at_once: Annotated[
        int, typer.Option(min=0, max=64, help="Cases in work at the same time; 0: one per core.")
    ] = 0,
) -> None:
    """See IMPORT_HELP."""
    from rich.progress import Progress

    from polyclinic.errors import ConfigError
    from polyclinic.system.machine import given_cores
    from polyclinic_client.cli.import_sources import forget_downloads, series_of
    from polyclinic_client.dicom.importing.importing import run_import
    from polyclinic_client.dicom.importing.planning import plan_import
    from polyclinic_client.dicom.importing.preview import show_plan
    from polyclinic_client.dicom.importing.proposing import propose
    from polyclinic_client.dicom.importing.record import read_record
    from polyclinic_client.dicom.importing.site_map import SiteMap, default_site_map
    from polyclinic_client.dicom.importing.splits import split_patients
    from polyclinic_client.dicom.mapping import FILE, confirm, read_mapping, write_mapping

    console = LineConsole()
    _check_target(out)
    folder = site_map or default_site_map()
    if folder.resolve().is_relative_to(out.resolve()):
        raise ConfigError(f"--site-map {folder}: it must not lie in the data folder {out}.")
    site = SiteMap(folder)
    known = read_record(out)
    findings, source = series_of(dicom, pacs, studies or [], site, console)
    path = mapping or folder / out.resolve().name / FILE
    if not path.exists():
        write_mapping(path, propose(out.resolve().name, findings.series))
        console.print(f"{path}: proposed what becomes what; edit it as you like", markup=False)
    chosen = read_mapping(path)
    plan = plan_import(findings, chosen, site)
    labelled = {case.patient for case in plan.cases if case.labels}
    show_plan(plan, chosen, split_patients(labelled, known.splits if known else None), console)
    if preview:
        return
    if not (chosen.confirmed or yes):
        _ask(path, console)
    confirm(path)
    with Progress(console=console) as progress:
        task = progress.add_task("importing", total=None)
        result = run_import(
            plan,
            chosen,
            site,
            out,
            source,
            at_once or given_cores(),
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    forget_downloads(site)
    done = f"{out}: {result.cases} cases, {result.fresh} of them made now"
    console.print(f"{done}. Check it: polyclinic-client check --data {out}", markup=False)


def _check_target(out: Path) -> None:
    """Refuse a data folder that is a file, or whose dataset.json no import wrote."""
    from polyclinic.errors import ConfigError
    from polyclinic_client.dicom.importing.record import FILE

    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: it is a file. Name a folder; it is made if need be.")
    if (out / "dataset.json").exists() and not (out / FILE).exists():
        raise ConfigError(
            f"--out {out}: its dataset.json is not from an import, and would be replaced. Name "
            "another folder."
        )


def _ask(path: Path, console: Console) -> None:
    from polyclinic.errors import ConfigError

    question = f"Is this what you want? It goes by {path}."
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} Look at the file, and import again with --yes.")
    console.print(question, markup=False)
    typer.confirm("Import now?", abort=True)
