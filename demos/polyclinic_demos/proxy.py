"""`polyclinic-server demo-proxy`: scans are segmented by a service that sees only warped copies.

People come twice. All of `train-proxy` runs on their scans, then a service and a client with TLS
and keys.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from polyclinic.errors import RunError
from polyclinic.imaging.datasets import read_dataset
from polyclinic.system.processes import Child, free_port, python_module, stop_all, wait_for_port
from polyclinic_demos.cohorts.hospitals import Subjects
from polyclinic_demos.cohorts.visits import T1, Visits, write_visits
from polyclinic_demos.local_pki import kit_for, local_authority
from polyclinic_demos.progress import counting
from polyclinic_strategies.proxy.train import Orders, Others, train_proxy

HOST = "127.0.0.1"
SITE = "st-mary"
LESIONS = 3
SHOWN = 2  # scans that the client has segmented
# a training of some minutes, on a reference of 2 mm
SHORT = (
    "model.spacing_mm=2.0",
    "data.spacing_mm=[2.0,2.0,2.0]",
    "training.proxy.steps=100",
    "training.proxy.more_segmentation=60",
    "training.proxy.polish=100",
    "training.proxy.patch=[32,32,32]",
)
START_S, ANSWER_S = 120.0, 600.0


def run_proxy_demo(
    subjects: Subjects,
    visits: int,
    seed: int,
    folder: Path,
    overrides: Sequence[str],
    console: Console,
    keys: int = 4,
    *,
    full: bool = False,
) -> Path:
    """Write the cohort, train, measure, and let a client ask a service.

    Args:
        subjects: Number of people to train with, whom attackers know, and to be recognized.
        visits: Visits of each person.
        seed: Seed of data and training.
        folder: Where everything goes.
        overrides: Further settings of `train-proxy`.
        console: Where progress is shown.
        keys: Number of proxies of every visit that attackers get.
        full: Whether everything is as long as `train-proxy` makes it.

    Returns:
        The folder of the results.

    Raises:
        PolyclinicError: A part of it failed, with its reason.
    """
    out, data = folder / "proxy", folder / "data"
    people = write_people(data / f"visits-{seed}", subjects, visits, seed, 0, console)
    others = (0, *subjects[1:])
    marked = write_people(data / f"lesions-{seed}", others, visits, seed, LESIONS, console)
    orders = Orders(
        (people,),
        out,
        (f"seed={seed}", *(() if full else SHORT), *overrides),
        others=(Others.with_lesions(marked),),
        restarts=3 if full else 1,
        keys=keys,
        scored=8 if full else 4,
        brief=not full,
    )
    train_proxy(orders, console)
    scans = [case.image[0] for case in read_dataset(people).test][:SHOWN]
    ask_service(out, scans, folder / "proxy-service", console)
    return out


def write_people(
    folder: Path, subjects: Subjects, visits: int, seed: int, lesions: int, console: Console
) -> Path:
    """Write a cohort of people who come several times, and return its folder.

    Args:
        folder: Where it goes.
        subjects: Number of people for training, validation and test.
        visits: Visits of each person.
        seed: Seed of the people.
        lesions: Lesions of each person.
        console: Where progress is shown.
    """
    with counting(console, f"writing {folder.name}") as tell:
        who = Visits(subjects, visits, lesions)
        write_visits(folder, T1, who, seed, lambda done, total: tell(done, total, ""))
    return folder


def ask_service(out: Path, scans: Sequence[Path], folder: Path, console: Console) -> None:
    """Start the service with the new segmenter, and have scans segmented through the generator.

    Args:
        out: Folder with what `train-proxy` wrote.
        scans: NIfTI files.
        folder: Where keys, logs, label maps and pictures go.
        console: Where the result is told.

    Raises:
        RunError: The service did not start, or the client failed; their logs say why.
    """
    port = free_port()
    shutil.rmtree(folder / "security", ignore_errors=True)  # of a former call, for another port
    authority = local_authority(folder / "security", port)
    service = _command(
        "polyclinic_server", folder / "service.log", "segment-service",
        "--model", out / "segmenter.safetensors", "--host", HOST, "--port", port,
        "--security", authority.folder,
    )  # fmt: skip
    client = _command(
        "polyclinic_client", folder / "client.log", "segment", *scans,
        "--kit", kit_for(authority, SITE), "--server", f"{HOST}:{port}",
        "--out", folder / "labels", "--generator", out / "generator.safetensors",
        "--preview", folder / "previews",
    )  # fmt: skip
    service.start()
    try:
        wait_for_port(f"{HOST}:{port}", START_S, service)
        client.start()
        if client.wait(ANSWER_S) != 0:
            raise RunError(
                f"The client did not get its answers: see {client.log} and {service.log}."
            )
    finally:
        stop_all([client, service])
    where = f"{folder / 'labels'}, pictures in {folder / 'previews'}"
    console.print(f"{len(scans)} scans segmented through a service: {where}", markup=False)


def _command(package: str, log: Path, command: str, *words: object) -> Child:
    """Return a command of one of the two sides as a process."""
    arguments = python_module(f"{package}.cli.main", command, *map(str, words))
    return Child(f"the segmentation {log.stem}", arguments, log)
