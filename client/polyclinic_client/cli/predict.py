"""`polyclinic-client predict`: a model on image files and on DICOM series."""

from pathlib import Path
from typing import Annotated

import typer

from polyclinic.system.commands import unwrap
from polyclinic.system.console import LineConsole
from polyclinic_client.cli.options import PacsUrl, RemoteNames, Store

PREDICT_HELP = unwrap("""Segment images, or classify them.

A segmentation writes one NIfTI label map for each image, with the image's own shape and affine. A
classification writes predictions.csv. A folder stands for the images in it. A model of several
channels takes as many files for each result, in the order of its channels. Label maps that the same
model made of the same images are left alone, so an interrupted command can be repeated. A faulty
image is named, and the others are done.

A DICOM series, in a folder or in a PACS, gets a DICOM SEG beside its NIfTI label map; with --store
the SEG goes to the PACS.

Examples:

[bold]polyclinic-client predict model.safetensors scan1.nii.gz scan2.nii.gz --out labels/[/bold]

[bold]polyclinic-client predict model.safetensors export/series7/ --out labels/[/bold]

[bold]polyclinic-client predict model.safetensors --pacs https://pacs.example.org/dicom-web
--series STUDY_UID/SERIES_UID --out labels/ --store[/bold]""")


def predict(
    model: Annotated[Path, typer.Argument(help="A model.safetensors of polyclinic's.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")],
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[IMAGE]...",
            help="NIfTI files (for 2-D tasks also PNG or JPEG), or folders of a DICOM series.",
        ),
    ] = None,
    pacs: PacsUrl = None,
    series: RemoteNames = None,
    store: Store = False,
) -> None:
    """See PREDICT_HELP."""
    from polyclinic_client.cli.dicom_options import dicom_inputs
    from polyclinic_client.site.predict import predict_files

    console = LineConsole()
    with dicom_inputs(images or [], pacs, series or [], console, store=store) as inputs:
        predict_files(model, inputs.files, out, console, inputs.names, inputs.write_segmentation)
