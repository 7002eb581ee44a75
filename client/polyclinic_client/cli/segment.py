"""`polyclinic-client segment`: have images segmented by a service that never sees them."""

from pathlib import Path
from typing import Annotated

import typer

from polyclinic.system.commands import unwrap
from polyclinic.system.console import LineConsole
from polyclinic_client.cli.options import Key, Kit, PacsUrl, RemoteNames, State, Store

SEGMENT_HELP = unwrap("""Have images segmented elsewhere, by a proxy that is unwarped here.

What leaves is an array: no header, no name, and not the key of the warp. The key follows from the
image and a secret in --state, so an image that is sent again has the same proxy. Each label map has
its image's own shape and affine; a DICOM series gets a DICOM SEG beside it, which --store stores in
the PACS. Images that have their result already are left alone, so an interrupted command can be
repeated.

Examples:

[bold]polyclinic-client segment scan.nii.gz --out labels.nii.gz --kit keys/st-mary.kit.json[/bold]

[bold]polyclinic-client segment scans/ --out labels/ --kit keys/st-mary.kit.json
--server segment.example.org:9443[/bold]""")


def segment(
    out: Annotated[Path, typer.Option("--out", help="A .nii.gz file for one image, or a folder.")],
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[IMAGE]...", help="NIfTI files, folders of them, or of a DICOM series."
        ),
    ] = None,
    pacs: PacsUrl = None,
    series: RemoteNames = None,
    store: Store = False,
    kit: Kit = None,
    key: Key = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="HOST:PORT",
            help="The service's address. Default: the kit's host, port 9443.",
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="No TLS, no keys: a service on this machine; needs --server."
        ),
    ] = False,
    generator: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What warps and unwarps. Default: generator.safetensors beside the kit.",
        ),
    ] = None,
    answer: Annotated[
        str,
        typer.Option(
            help="probabilities, or labels: a few times less to receive, borders a little rougher."
        ),
    ] = "probabilities",
    preview: Annotated[
        Path | None,
        typer.Option(
            help="Also a picture of image, proxy and result: a file for one image, or a folder."
        ),
    ] = None,
    patient: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="One key for all scans of this patient, whose visits then show the same stranger. "
            "The name stays here. Default: a key for each scan.",
        ),
    ] = "",
    state: State = None,
    at_once: Annotated[
        int, typer.Option(min=1, max=64, help="Number of images in work at the same time.")
    ] = 2,
    wait: Annotated[
        float,
        typer.Option(min=0.0, help="Seconds to keep trying while the service is busy or away."),
    ] = 600.0,
) -> None:
    """See SEGMENT_HELP."""
    from polyclinic.errors import ConfigError
    from polyclinic_client.segmentation.service_choice import (
        SECRET,
        choose_generator,
        service_connection,
    )

    if answer not in ("labels", "probabilities"):
        raise ConfigError(f"--answer {answer}: labels or probabilities.")
    connection = service_connection(server, kit, key, insecure=insecure, state=state)
    path = choose_generator(generator, kit)
    console = LineConsole(stderr=True)
    with console.status("loading torch and MONAI"):
        from polyclinic_client.cli.dicom_options import dicom_inputs
        from polyclinic_client.segmentation.segment_files import plan, segment_files
        from polyclinic_strategies.proxy.protection import Protection
    from polyclinic.security.secret import Secret
    from polyclinic_client.state import state_folder

    secret = Secret(state_folder(connection.state, connection.site) / SECRET)
    protection = Protection.load(path, secret, patient)
    with dicom_inputs(images or [], pacs, series or [], console, store=store) as inputs:
        jobs = plan(inputs.files, out, preview)
        done = segment_files(
            jobs,
            connection,
            protection,
            answer,
            at_once,
            wait,
            console,
            inputs.write_segmentation,
        )
    legend = ", ".join(f"{number} {label}" for number, label in enumerate(protection.labels))
    console.print(f"{done} of {len(jobs)} images segmented, in {out}: {legend}", markup=False)
