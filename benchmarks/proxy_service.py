"""The segmentation service under invalid requests, under load, and against local segmentation.

    python benchmarks/proxy_service.py
    python benchmarks/proxy_service.py --model proxy.safetensors
        --generator generator.safetensors --image scan.nii.gz
    python benchmarks/proxy_service.py --short

The first command uses a network and a generator with random weights, and a simulated scan; the last
one makes a thousand spoiled requests and has eight clients. All calls use TLS and keys.

First there are spoiled requests and spoiled connections. Then one scan alone: warped, segmented by
the service and unwarped by a client in a process of its own, and in turns with that segmented in
this process, by the same network and number of threads. Then clients of several sites at once, one
of which makes more than half of all requests.
"""

import argparse
import json
import os
import random
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import nibabel as nib
import numpy as np
import psutil
import torch
from measuring import machine
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from relay import Relay

from polyclinic.config.compose import instantiate
from polyclinic.config.jobs import load_job
from polyclinic.errors import PolyclinicError
from polyclinic.imaging.volumes import read_image
from polyclinic.learning.state_dict import save_state
from polyclinic.system.processes import Child, free_port, python_module, wait_for_port
from polyclinic_client.network.connection import Connection
from polyclinic_client.segmentation.client import KINDS, SegmentationLink
from polyclinic_client.segmentation.service_choice import service_connection
from polyclinic_demos.cohorts.anatomy import subject
from polyclinic_demos.cohorts.hospitals import HOSPITALS
from polyclinic_demos.cohorts.scanner import acquire
from polyclinic_demos.local_pki import kit_for, local_authority
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.segmentation.model import SegmentationModel
from polyclinic_strategies.proxy.frame.atlas import icbm152_reference
from polyclinic_strategies.proxy.generator import LearnedField
from polyclinic_strategies.proxy.protection import Protection, coarse_reference
from polyclinic_strategies.proxy.wire import segmentation_pb2 as wire
from polyclinic_strategies.proxy.wire.arrays import volume_parts
from tests.server.segmentation.mutations import mutate
from tests.server.segmentation.segmentation_services import Caller

RESULTS = Path(__file__).with_name("results")
NAMES = {"model": "unet", "data": "brain_tissue", "training": "default"}
SETTINGS = {"data.patch": [96, 96, 96]}
PATIENCE_S = 7200.0
CLIENTS, REPEATS = 32, 3
# one of this many spoiled requests has a whole volume, the others have a few small parts
WHOLE = 200
LINE = re.compile(
    r"(\S+): request (\d+), ([\d,]+) bytes, waited ([\d.]+) s, computed in ([\d.]+) s, (\w+)"
)


def main() -> None:
    options = parse()
    if options.ask:
        print(json.dumps(ask_alone(options)))
        return
    with tempfile.TemporaryDirectory() as name:
        found = measure(options, Path(name))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / ("proxy_service-short.json" if options.short else "proxy_service.json")
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--generator", type=Path)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    # this file as a client: the service's address
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    parser.add_argument("--kit", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    before = machine()
    torch.set_num_threads(options.threads)
    make_up(options, folder)
    path, port = options.model, free_port()
    model = SegmentationModel.load(path)
    authority = local_authority(folder / "security", port)
    for site in ("rubbish", "one", "greedy", *(f"modest-{number}" for number in range(CLIENTS))):
        kit_for(authority, site)
    command = python_module(
        "polyclinic_server.cli.main",
        "segment-service",
        "--model",
        str(path),
        "--port",
        str(port),
        "--security",
        str(authority.folder),
        "--threads",
        str(options.threads),
        "--deadline-s",
        str(PATIENCE_S),
        "--upload-s",
        str(PATIENCE_S),
        "--queue",
        "32",
    )
    service = Child("service", command, folder / "service.log")
    service.start()
    try:
        wait_for_port(f"127.0.0.1:{port}", 120.0, service)
        found: dict[str, Any] = {
            "machine": before,
            "volume": " x ".join(map(str, model.shape)),
            "threads": options.threads,
        }
        found["memory_mb"] = {"after the start": memory(service.pid)}
        found["rubbish"] = send_rubbish(authority, port, model, 1000 if options.short else 10_000)
        found["memory_mb"]["after the rubbish"] = memory(service.pid)
        found["one_volume"] = one_volume(options, authority, port, model)
        found["memory_mb"]["after single volumes"] = memory(service.pid)
        found["at_once"] = at_once(authority, port, model, 8 if options.short else CLIENTS, service)
        found["memory_mb"]["after many at once"] = memory(service.pid)
    finally:
        service.stop(60.0)
    found["ended_with"] = service.status()
    found["batching"] = batching(model)
    return found


def make_up(options: argparse.Namespace, folder: Path) -> None:
    """Make what was not given.

    These are network and generator of conf/ with random weights, and a scan of a simulated subject.
    """
    torch.manual_seed(0)
    if options.generator is None:
        reference = icbm152_reference(1.0)
        labels = tuple(load_job(NAMES, SETTINGS).data.labels)
        options.generator = folder / "generator.safetensors"
        Protection(LearnedField(coarse_reference(reference)), reference, labels).save(
            options.generator
        )
    if options.model is None:
        protection = Protection.load(options.generator)
        described = {
            "names": NAMES,
            "settings": SETTINGS,
            "proxy": {"shape": protection.shape, "digest": protection.digest},
        }
        options.model = folder / "proxy.safetensors"
        network = instantiate(load_job(NAMES, SETTINGS).model)
        save_state(network.state_dict(), options.model, {"polyclinic": json.dumps(described)})
    if options.image is None:
        scan = acquire(subject(1), replace(HOSPITALS[0], voxel_mm=(1.0, 1.0, 1.0)), seed=0)
        options.image = folder / "scan.nii.gz"
        nib.save(nib.Nifti1Image(scan.image.astype(np.float32), scan.affine), options.image)


def memory(pid: int) -> dict[str, float]:
    """Return the resident memory of a process now, and its peak."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert peak is not None
    return {
        "now": round(psutil.Process(pid).memory_info().rss / 2**20),
        "peak": round(int(peak[1]) / 2**10),
    }


def a_proxy(shape: tuple[int, ...], seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def connect(authority: Authority, port: int, site: str) -> Connection:
    return service_connection(f"127.0.0.1:{port}", kit_for(authority, site), None, insecure=False)


def send_rubbish(
    authority: Authority, port: int, model: SegmentationModel, count: int
) -> dict[str, Any]:
    """Send spoiled requests from eight threads, spoiled connections, and then a sound request."""
    whole = [
        part.SerializeToString()
        for part in volume_parts(a_proxy(model.shape, 0), wire.LABELS, bytes(16))
    ]
    small = [whole[0], *(wire.VolumePart(data=bytes(1000)).SerializeToString() for _ in range(4))]
    outcomes: Counter[str] = Counter()
    start = time.monotonic()
    site = connect(authority, port, "rubbish")

    def send(numbers: range) -> None:
        someone, draw = Caller(site), random.Random(numbers.start)
        for number in numbers:
            if number % 1000 < 8:
                someone.metadata = site.credentials()  # valid for five minutes
            try:
                someone.ask(mutate(whole if number % WHOLE == 0 else small, draw), PATIENCE_S)
                outcomes["OK"] += 1
            except grpc.RpcError as error:
                outcomes[error.code().name] += 1
        someone.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, [range(first, count, 8) for first in range(8)]))
    connections = spoil_connections(port, count // 20)
    seconds = time.monotonic() - start
    with link(site, model) as sound:
        answered = sound.segment(a_proxy(model.shape, 1), "labels").shape == model.shape
    return {
        "requests": count,
        "outcomes": dict(outcomes),
        "connections": connections,
        "seconds": seconds,
        "answers_afterwards": answered,
    }


def spoil_connections(port: int, count: int) -> int:
    """Open connections that speak no TLS, or break it off."""
    draw = random.Random(0)
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(
                draw.choice((b"", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\n"))
                + draw.randbytes(draw.randrange(300))
            )
    return count


def link(connection: Connection, model: SegmentationModel) -> SegmentationLink:
    return SegmentationLink(
        connection, model.labels, model.shape, model.digest, PATIENCE_S, lambda _text: None
    )


def at_once(
    authority: Authority, port: int, model: SegmentationModel, clients: int, service: Child
) -> dict[str, Any]:
    """Start clients with a volume each, all of them at the same moment.

    One site has more than half of them, the others one or two.
    """
    greedy = clients // 2 + 2
    sites = ["greedy"] * greedy + [f"modest-{number // 2}" for number in range(clients - greedy)]
    ready, done = threading.Barrier(clients), []
    past = len(LINE.findall(service.log.read_text()))

    def ask(number: int) -> float | str:
        proxy = a_proxy(model.shape, 0)
        with link(connections[sites[number]], model) as mine:
            ready.wait()
            start = time.monotonic()
            try:
                mine.segment(proxy, "labels")
            except PolyclinicError as error:
                return f"{type(error).__name__}: {error}"
            done.append(sites[number])
            return time.monotonic() - start

    connections = {site: connect(authority, port, site) for site in dict.fromkeys(sites)}
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(ask, range(clients)))
    rows = [row for row in LINE.findall(service.log.read_text())[past:] if row[5] == "OK"]
    waits = {
        kind: [float(row[3]) for row in rows if row[0].startswith(kind)]
        for kind in ("greedy", "modest")
    }
    return {
        "clients": clients,
        "failures": [answer for answer in answers if isinstance(answer, str)],
        "seconds_to_the_answer": spread(
            [answer for answer in answers if isinstance(answer, float)]
        ),
        "computed_s": spread([float(row[4]) for row in rows]),
        f"waited_s of one site's {greedy}": spread(waits["greedy"]),
        f"waited_s of the other sites' {clients - greedy}": spread(waits["modest"]),
        "answered_in_this_order": done,
    }


def spread(values: list[float]) -> dict[str, float]:
    return (
        {"least": min(values), "median": statistics.median(values), "most": max(values)}
        if values
        else {}
    )


def one_volume(
    options: argparse.Namespace, authority: Authority, port: int, model: SegmentationModel
) -> dict[str, Any]:
    """Segment through the service by a client in a process of its own, and directly.

    A relay counts the bytes.
    """
    volume, found = a_proxy(model.shape, 0), {}
    for kind, answers in (("labels", 1), ("probabilities", len(model.labels) - 1)):
        asked: list[dict[str, Any]] = []
        for _ in range(1 if options.short else REPEATS):
            with Relay(f"127.0.0.1:{port}") as relay:
                command = [
                    sys.executable,
                    __file__,
                    "--ask",
                    f"{relay.address} {kind}",
                    "--kit",
                    str(kit_for(authority, "one")),
                ]
                command += ["--generator", str(options.generator), "--image", str(options.image)]
                environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
                ran = subprocess.run(
                    command, stdout=subprocess.PIPE, text=True, check=True, env=environment
                )
                asked.append(json.loads(ran.stdout.splitlines()[-1]))
                asked[-1]["bytes_over_arrays"] = relay.passed() / (volume.size * (1 + answers))
            start = time.monotonic()
            model.segment(volume, KINDS[kind], threading.Event())
            asked[-1]["direct_s"] = time.monotonic() - start
        found[kind] = {name: spread([each[name] for each in asked]) for name in asked[0]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**found, "peak_mb_of_direct_segmentation": round(peak / 2**10)}


def ask_alone(options: argparse.Namespace) -> dict[str, float]:
    """Segment one volume as a hospital does; return the time of each step, and the peak memory."""
    address, kind = options.ask.split()
    connection = service_connection(address, options.kit, None, insecure=False)
    protection, volume = Protection.load(options.generator), read_image(options.image, 1, 3)
    marks = [time.monotonic()]
    protected = protection.protect(volume)
    marks.append(time.monotonic())
    with SegmentationLink(
        connection,
        protection.labels,
        protection.shape,
        protection.digest,
        PATIENCE_S,
        lambda _text: None,
    ) as service:
        marks.append(time.monotonic())
        answer = service.segment(protected.proxy, kind)
        marks.append(time.monotonic())
    protected.reveal(answer)
    marks.append(time.monotonic())
    steps = (after - before for before, after in pairwise(marks))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        **dict(zip(("protect_s", "contact_s", "service_s", "reveal_s"), steps, strict=True)),
        "client_peak_mb": round(peak / 2**10),
    }


def batching(model: SegmentationModel, repeats: int = 4) -> dict[str, Any]:
    """Measure the processor seconds of a volume, alone and two at a time, in turns."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for many, taken in seconds.items():
            image = torch.rand(many, 1, *model.shape)
            start = time.process_time()
            with torch.inference_mode():
                sliding_window_inference(
                    image, model.data.patch, 2 * many, model.network, overlap=0.25, mode="gaussian"
                )
            taken.append((time.process_time() - start) / many)
    return {
        f"processor seconds of a volume, {many} at a time": spread(taken)
        for many, taken in seconds.items()
    }


if __name__ == "__main__":
    main()
