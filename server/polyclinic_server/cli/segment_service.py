"""`polyclinic-server segment-service`: a service that segments the warped volumes of hospitals."""

import asyncio
import math
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polyclinic.system.commands import Insecure
from polyclinic.system.console import LineConsole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyclinic_server.enrolment.endpoint import Endpoint
    from polyclinic_server.segmentation.model import SegmentationModel
    from polyclinic_server.segmentation.service import Limits

PORT = 9443


def segment_service(
    model: Annotated[
        Path,
        typer.Option(
            "--model",
            metavar="FILE",
            help="Segmenter that `polyclinic-server train-proxy` wrote.",
        ),
    ],
    host: Annotated[
        str | None,
        typer.Option(
            help="Address to listen on. Default: all addresses with TLS, 127.0.0.1 without."
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = PORT,
    security: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Folder that `polyclinic-server init` made; of it, only the part `segmentation` "
            "is read. A container of the service needs that part alone.",
        ),
    ] = Path("security"),
    insecure: Insecure = False,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            max=64,
            help="Number of volumes that are segmented at the same time; 1 is best on a CPU.",
        ),
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Number of torch's threads per volume. Default: torch's own."),
    ] = None,
    queue: Annotated[
        int,
        typer.Option(
            min=1, max=400, help="Number of requests that may wait; further ones are refused."
        ),
    ] = 32,
    memory_gb: Annotated[
        float,
        typer.Option(min=0.001, help="Memory for the volumes and answers of all requests, in GiB."),
    ] = 1.0,
    deadline_s: Annotated[
        float, typer.Option(min=0.1, help="Longest time for a request with its wait, in seconds.")
    ] = 600.0,
    idle_s: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds without data after which an upload is ended."),
    ] = 30.0,
    upload_s: Annotated[
        float, typer.Option(min=0.1, help="Longest time for an upload, in seconds.")
    ] = 300.0,
    reflection: Annotated[
        bool,
        typer.Option("--reflection", help="Let tools such as grpcurl list the calls."),
    ] = False,
) -> None:
    """Segment warped volumes for hospitals, until Ctrl-C.

    The service needs no data and keeps none. It gets warped volumes only, never an original image.
    Hospitals that are enrolled (`polyclinic-server enrol`) call it with
    `polyclinic-client segment`. A running service takes new keys and a renewed certificate at once.
    It answers gRPC's health checks.

    Example: [bold]polyclinic-server segment-service --model proxy.safetensors[/bold]

    Example, on one machine without keys:
    [bold]polyclinic-server segment-service --model proxy.safetensors --insecure[/bold]
    """
    from polyclinic.system.listening import claim_port
    from polyclinic.system.text import clean_lines
    from polyclinic_server.enrolment.endpoint import choose_endpoint
    from polyclinic_server.enrolment.service import service_folder

    console = LineConsole()
    place = choose_endpoint(
        host, port, service_folder(security), insecure=insecure, option="--host "
    )
    claim_port(place.host, place.port, "--port")  # before torch is loaded, which takes seconds
    with console.status("loading torch and MONAI"):
        import torch

        from polyclinic_server.segmentation.model import SegmentationModel
        from polyclinic_server.segmentation.server import SegmentationServer, serve
        from polyclinic_server.segmentation.service import Limits

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = SegmentationModel.load(model)
    limits = Limits(queue, int(memory_gb * 2**30), workers, idle_s, upload_s, deadline_s)

    def tell(text: str) -> None:
        console.print(f"{datetime.now():%H:%M:%S} {clean_lines(text)}", markup=False)

    async def run() -> None:
        server = SegmentationServer(loaded, place, limits, tell, reflection=reflection)

        def greet(found: int) -> None:
            for line in greeting(model, loaded, place, found, limits, server.callers()):
                console.print(line, markup=False)

        await serve(server, place.authority, tell, greet)

    asyncio.run(run())


def greeting(
    path: Path,
    model: "SegmentationModel",
    place: "Endpoint",
    port: int,
    limits: "Limits",
    callers: "Sequence[str]",
) -> list[str]:
    """Return the lines that are printed when the service has started."""
    from polyclinic.system.listening import join_address

    shape, voxels = " x ".join(map(str, model.shape)), math.prod(model.shape)
    labels = ", ".join(f"{number} {label}" for number, label in enumerate(model.labels))
    lines = [
        f"model    {path}, digest {model.digest[:12]}",
        f"volumes  {shape} voxels, {voxels / 2**20:.1f} MiB each",
        f"labels   {labels}",
        f"limits   {limits.waiting} requests may wait, {limits.memory / 2**30:g} GiB for them, "
        f"{limits.deadline_s:g} s for a request",
    ]
    call = "try      polyclinic-client segment IMAGE --out labels.nii.gz"
    if place.authority is None:
        address = join_address(place.host, port)
        return [
            *lines,
            f"address  {address}, plain text; anybody on this machine may call",
            f"{call} --insecure --server {address} --generator FILE",
        ]
    name, ends = place.authority.address.rpartition(":")[0], f"{place.authority.expires():%Y-%m-%d}"
    hosts = ", ".join(place.authority.hosts)
    return [
        *lines,
        f"address  {join_address(place.host, port)}, TLS; certificate for {hosts} until {ends}",
        f"callers  {', '.join(callers) or 'nobody yet: polyclinic-server enrol NAME hospital.pub'}",
        f"{call} --kit KIT --server {name}:{port} --generator FILE",
    ]
