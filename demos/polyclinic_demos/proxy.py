"""`polyclinic-server demo-proxy`: people who come twice, all of `train-proxy`, then a service and a client with TLS and keys."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from polyclinic.errors import RunError
from polyclinic.imaging.datasets import read_dataset
from polyclinic.system.processes import Child, free_port, python_module, stop_all, wait_for_port
from polyclinic_demos.cohorts.hospitals import Subjects
from polyclinic_demos.cohorts.visits import T1, Visits, write_visits
from polyclinic_demos.local_pki import kit_for, rehearse
from polyclinic_strategies.proxy.train import Orders, Others, train_proxy

HOST = "127.0.0.1"
LESIONS = 3
SHOWN = 2  # scans that the client has segmented
START_S, ANSWER_S = 120.0, 600.0


def run_proxy_demo(
    subjects: Subjects,
    visits: int,
    seed: int,
    folder: Path,
    overrides: Sequence[str],
    console: Console,
    keys: int = 4,
) -> Path:
    """Write the cohort, train, measure, and let a client ask a service; returns the folder of the results.

    Raises:
        PolyclinicError: Whatever made a part of it fail, with its reason.
    """
    out = folder / "proxy"
    people = write_people(folder / "data" / f"visits-{seed}", subjects, visits, seed, 0, console)
    marked = write_people(
        folder / "data" / f"lesions-{seed}", (0, *subjects[1:]), visits, seed, LESIONS, console
    )
    orders = Orders(
        (people,),
        out,
        (f"seed={seed}", *overrides),
        others=(Others.with_lesions(marked),),
        keys=keys,
    )
    train_proxy(orders, console)
    scans = [case.image[0] for case in read_dataset(people).test][:SHOWN]
    ask_service(out, scans, folder / "proxy-service", console)
    return out


def write_people(
    folder: Path, subjects: Subjects, visits: int, seed: int, lesions: int, console: Console
) -> Path:
    """A cohort on disk, with progress."""
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"writing {folder.name}", total=sum(subjects) * visits)
        write_visits(
            folder,
            T1,
            Visits(subjects, visits, lesions),
            seed,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    return folder


def ask_service(out: Path, scans: Sequence[Path], folder: Path, console: Console) -> None:
    """Start the service with the new segmenter, and have scans segmented through the new generator.

    Raises:
        RunError: The service did not start, or the client failed; their logs say why.
    """
    port = free_port()
    shutil.rmtree(folder / "security", ignore_errors=True)  # of a former call, for another port
    authority = rehearse(folder / "security", port)
    kit = kit_for(authority, "st-mary")
    service = Child(
        "segmentation service",
        python_module(
            "polyclinic_server.cli.main", "segment-service", "--model", str(out / "segmenter.safetensors"), "--host", HOST, "--port", str(port),
            "--security", str(authority.folder),
        ),
        folder / "service.log",
    )  # fmt: skip
    client = Child(
        "client",
        python_module(
            "polyclinic_client.cli.main", "segment", *map(str, scans), "--kit", str(kit), "--server", f"{HOST}:{port}", "--out", str(folder / "labels"),
            "--generator", str(out / "generator.safetensors"), "--preview", str(folder / "previews"),
        ),
        folder / "client.log",
    )  # fmt: skip
    service.start()
    try:
        wait_for_port(f"{HOST}:{port}", START_S, service)
        client.start()
        code = client.wait(ANSWER_S)
        if code != 0:
            raise RunError(
                f"The client did not get its answers: see {folder / 'client.log'} and {folder / 'service.log'}."
            )
    finally:
        stop_all([client, service])
    console.print(
        f"{len(scans)} scans segmented through a service: {folder / 'labels'}, pictures in {folder / 'previews'}",
        markup=False,
    )
