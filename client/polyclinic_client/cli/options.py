"""Options that several commands of `polyclinic-client` have."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Folder with dataset.json and the images (Medical Segmentation Decathlon layout).",
    ),
]
Kit = Annotated[
    Path | None,
    typer.Option(
        "--kit",
        envvar="POLYCLINIC_KIT",
        help="File that the coordinator sent: its address, its certificate, your name there.",
    ),
]
Key = Annotated[
    Path | None,
    typer.Option(
        "--key",
        envvar="POLYCLINIC_KEY",
        help="This hospital's private key. Default: hospital.key beside the kit.",
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="HOST:PORT",
        help="The coordinator's address, if it is another than the kit says.",
    ),
]
Name = Annotated[str | None, typer.Option("--name", help="This hospital's name; the kit knows it.")]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure",
        help="No TLS, no keys: a coordinator on this machine; needs --server and --name.",
    ),
]
State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        help="Folder of this hospital's models, pictures and logs. Default: "
        "~/.local/state/polyclinic/NAME.",
    ),
]
MinSubjects = Annotated[
    int | None,
    typer.Option(
        "--min-subjects",
        min=1,
        help="No mean over fewer of your subjects ever leaves; kept in policy.yaml.",
    ),
]
Noise = Annotated[
    float | None,
    typer.Option(
        "--noise",
        min=0.0,
        help="Least noise multiplier of such means; kept in policy.yaml. See "
        "docs/explanation/refinement.md.",
    ),
]
MaxMemory = Annotated[
    float | None,
    typer.Option(
        "--max-memory-gb",
        min=0.1,
        help="Memory that work for the coordinator may take; kept in policy.yaml. Default: nine "
        "tenths of the machine's.",
    ),
]
MaxCache = Annotated[
    float | None,
    typer.Option(
        "--max-cache-gb",
        min=0.01,
        help="Memory for prepared cases; kept in policy.yaml. Default: half of that.",
    ),
]
MaxDisk = Annotated[
    float | None,
    typer.Option(
        "--max-disk-gb",
        min=0.0,
        help="Disk for prepared cases that do not stay in memory, in --state; 0: none; kept in "
        "--state. Default: half of what is free.",
    ),
]
MaxEpochs = Annotated[
    int | None,
    typer.Option(
        "--max-epochs",
        min=1,
        help="Passes over the training cases that a run may ask for; kept in policy.yaml. Default: "
        "10000.",
    ),
]
MaxHours = Annotated[
    float | None,
    typer.Option(
        "--max-hours",
        min=0.01,
        help="Hours that one round, or one contribution, may take; kept in policy.yaml. Default: "
        "168.",
    ),
]
MaxReleases = Annotated[
    int | None,
    typer.Option(
        "--max-releases",
        min=0,
        help="Different questions for statistics that are answered, ever; kept in policy.yaml. "
        "Default: 1000.",
    ),
]
PacsUrl = Annotated[
    str | None,
    typer.Option("--pacs", metavar="URL", help="Address of a PACS's DICOMweb service."),
]
RemoteNames = Annotated[
    list[str] | None,
    typer.Option(
        "--series",
        metavar="STUDY/SERIES",
        help="With --pacs: StudyInstanceUID/SeriesInstanceUID; several times.",
    ),
]
Store = Annotated[
    bool, typer.Option("--store", help="With --pacs: store each DICOM SEG there, too.")
]
