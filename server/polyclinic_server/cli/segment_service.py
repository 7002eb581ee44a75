"""`polyclinic-server segment-service`: serve a model that was trained on proxies."""

import asyncio
import math
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

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
            help="What the training of a deformation proxy wrote for the service.",
        ),
    ],
    host: Annotated[
        str | None,
        typer.Option(help="Where to listen. Default: everywhere with TLS, 127.0.0.1 without."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = PORT,
    security: Annotated[
        Path, typer.Option(metavar="FOLDER", help="The folder that `polyclinic-server init` made.")
    ] = Path("security"),
    insecure: Annotated[
        bool, typer.Option("--insecure", help="No TLS, no keys: this machine alone, over loopback.")
    ] = False,
    workers: Annotated[
        int,
        typer.Option(
            min=1, max=64, help="Volumes that are computed at the same time; one is best on a CPU."
        ),
    ] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of torch, for one volume. Default: as torch chooses.")
    ] = None,
    queue: Annotated[
        int,
        typer.Option(min=1, max=400, help="Requests that may wait; more are told to ask again."),
    ] = 32,
    memory_gb: Annotated[
        float, typer.Option(min=0.001, help="For the volumes and answers of all requests together.")
    ] = 1.0,
    deadline_s: Annotated[
        float, typer.Option(min=0.1, help="No request takes longer, waiting included.")
    ] = 600.0,
    idle_s: Annotated[
        float, typer.Option(min=0.1, help="An upload that sends nothing for so long is ended.")
    ] = 30.0,
    upload_s: Annotated[
        float, typer.Option(min=0.1, help="An upload that is not complete after so long is ended.")
    ] = 300.0,
    reflection: Annotated[
        bool,
        typer.Option("--reflection", help="Let tools such as grpcurl ask which calls there are."),
    ] = False,
) -> None:
    """Segment warped volumes for hospitals, until Ctrl-C. Needs no data, keeps none, and never sees an image as it was taken.

    Hospitals that are enrolled (`polyclinic-server enrol`) may call, with `polyclinic-client segment`. A running service takes new keys
    and a renewed certificate at once. It answers gRPC's health checks.

    Example: [bold]polyclinic-server segment-service --model proxy.safetensors[/bold]

    Example, on one machine without keys: [bold]polyclinic-server segment-service --model proxy.safetensors --insecure[/bold]
    """
    from polyclinic.system.processes import claim_port
    from polyclinic_server.enrolment.endpoint import choose_endpoint

    console = Console(highlight=False, soft_wrap=True)
    place = choose_endpoint(host, port, security, insecure=insecure, option="--host ")
    claim_port(place.host, place.port, "--port")  # before torch takes its seconds
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
        console.print(f"{datetime.now():%H:%M:%S} {text}", markup=False)

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
    """What whoever starts the service wants to know."""
    shape, voxels = " x ".join(map(str, model.shape)), math.prod(model.shape)
    lines = [
        f"model    {path}, digest {model.digest[:12]}",
        f"volumes  {shape} voxels, {voxels / 2**20:.1f} MiB each",
        f"labels   {', '.join(f'{number} {label}' for number, label in enumerate(model.labels))}",
        f"limits   {limits.waiting} may wait, {limits.memory / 2**30:g} GiB for them, {limits.deadline_s:g} s for a request",
    ]
    if place.authority is None:
        address = f"{place.host}:{port}"
        return [
            *lines,
            f"address  {address}, plain text; anybody on this machine may call",
            f"try      polyclinic-client segment IMAGE --out labels.nii.gz --insecure --server {address} --generator FILE",
        ]
    name, ends = place.authority.address.rpartition(":")[0], f"{place.authority.expires():%Y-%m-%d}"
    return [
        *lines,
        f"address  {place.host}:{port}, TLS; certificate for {', '.join(place.authority.hosts)} until {ends}",
        f"callers  {', '.join(callers) or 'nobody yet: polyclinic-server enrol NAME hospital.pub'}",
        f"try      polyclinic-client segment IMAGE --out labels.nii.gz --kit KIT --server {name}:{port} --generator FILE",
    ]
