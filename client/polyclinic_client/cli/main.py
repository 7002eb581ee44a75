"""`polyclinic-client`: what the hospital's IT person runs."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from polyclinic.system.exit_codes import EXIT_CODES, run_command

app = typer.Typer(
    name="polyclinic-client",
    help="Take part in a federation as a hospital. Your images never leave this machine: model weights and figures do.\n\n"
    + EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
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
        help="The file that the coordinator sent: its address, its certificate, your name there.",
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
Name = Annotated[
    str | None, typer.Option("--name", help="What this hospital is called; the kit knows it.")
]
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
        help="Where this hospital keeps its models, pictures and logs. Default: ~/.local/state/polyclinic/NAME.",
    ),
]
MinSubjects = Annotated[
    int | None,
    typer.Option(
        "--min-subjects",
        min=1,
        help="No mean over fewer of your subjects ever leaves; kept in --state.",
    ),
]
Noise = Annotated[
    float | None,
    typer.Option(
        "--noise",
        min=0.0,
        help="At least so much noise on such means, see docs/refinement.md; kept too.",
    ),
]


def state_folder(state: Path | None, name: str) -> Path:
    """Where a hospital of that name keeps its models, pictures and logs."""
    if state is not None:
        return state
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "polyclinic" / name


@app.command()
def keygen(
    folder: Annotated[
        Path, typer.Option(help="Where hospital.key and hospital.pub go; put the kit there, too.")
    ] = Path("keys"),
) -> None:
    """Make this hospital's key. The private half stays here; send hospital.pub to the coordinator, who sends back a kit.

    Example: [bold]polyclinic-client keygen --folder /etc/polyclinic[/bold]
    """
    from polyclinic.security.keys import PRIVATE, PUBLIC, fingerprint, make_key

    mark = fingerprint(make_key(folder))
    console = Console(highlight=False)
    console.print(
        f"{folder / PRIVATE}  stays here, and is nobody else's", markup=False, soft_wrap=True
    )
    console.print(f"{folder / PUBLIC}  goes to the coordinator", markup=False, soft_wrap=True)
    console.print(
        f"fingerprint {mark}  (compare it with the coordinator by telephone)",
        markup=False,
        soft_wrap=True,
    )


@app.command()
def join(
    data: Data,
    kit: Kit = None,
    key: Key = None,
    server: Server = None,
    name: Name = None,
    insecure: Insecure = False,
    state: State = None,
    wait: Annotated[
        float, typer.Option(help="Seconds to wait for a coordinator that is not up yet.")
    ] = 60.0,
    describe: Annotated[
        bool,
        typer.Option(
            "--describe",
            help="Only say what the images are like (no labels, no training), and get a model for them.",
        ),
    ] = False,
    min_subjects: MinSubjects = None,
    noise: Noise = None,
) -> None:
    """Serve a coordinator until Ctrl-C; with --describe, get a refined model and leave.

    Checks the data set's list of files, dials out to the coordinator (one outbound connection, nothing listens but on loopback), and
    then trains and evaluates whenever it is asked. A lost connection is taken up again by itself.

    A new hospital may leave training to others: with [bold]--describe[/bold] it sends means over its images (which ones, the coordinator
    says; what they reveal, docs/refinement.md) and receives a model that was made for such images. A data set for that may list its images
    under "test", without labels.

    Example: [bold]polyclinic-client join --kit keys/st-mary.kit.json --data /data/brain[/bold]

    Example: [bold]polyclinic-client join --describe --kit keys/st-john.kit.json --data /data/new[/bold]

    Example, on one machine without keys: [bold]polyclinic-client join --insecure --server 127.0.0.1:9092 --name a --data /data/brain[/bold]
    """
    from polyclinic_client.fleet.connection import make_connection
    from polyclinic_client.fleet.join import describe as describe_images
    from polyclinic_client.fleet.join import join as join_federation
    from polyclinic_client.site.release_policy import keep_release_policy

    console = Console(stderr=True, highlight=False)
    connection = make_connection(server, name, kit, key, insecure=insecure)
    _check(data, console, labelled=not describe)
    folder = state_folder(state, connection.site)
    keep_release_policy(folder, min_subjects, noise)
    if not describe:
        join_federation(
            connection, data, folder, wait, lambda text: console.print(text, markup=False)
        )
        return
    path = describe_images(
        connection, data, folder, wait, lambda text: console.print(text, markup=False)
    )
    console.print(
        f"The model for {connection.site} is {path}. Use it: polyclinic-client predict {path} IMAGE... --out FOLDER",
        markup=False,
    )


@app.command()
def contribute(
    data: Data,
    kit: Kit = None,
    key: Key = None,
    server: Server = None,
    name: Name = None,
    insecure: Insecure = False,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Train now, without a connection; hand over another time."),
    ] = False,
    state: State = None,
    wait: Annotated[
        float, typer.Option(help="Seconds to wait for the coordinator, and for its question.")
    ] = 60.0,
) -> None:
    """Fine-tune once, hand the contribution to a merging coordinator, and leave.

    For a hospital that is online only now and then. It can be interrupted at any moment and called again: training goes on after its
    last pass, and a contribution that was not yet acknowledged is handed over again; it counts once.

    Example: [bold]polyclinic-client contribute --kit keys/st-mary.kit.json --data /data/brain[/bold]
    """
    from polyclinic_client.fleet.connection import make_connection
    from polyclinic_client.fleet.contribute import contribute as contribute_once

    console = Console(stderr=True, highlight=False)
    connection = make_connection(server, name, kit, key, insecure=insecure)
    _check(data, console)
    site, called = connection.site, None if offline else connection
    said = contribute_once(
        called,
        data,
        site,
        state_folder(state, site),
        wait,
        lambda text: console.print(text, markup=False),
    )
    console.print(said, markup=False)


def _check(data: Path, console: Console, *, labelled: bool = True) -> None:
    """What can be known at once about a data set."""
    from polyclinic.imaging.datasets import check_dataset, read_dataset

    for warning in check_dataset(read_dataset(data, labelled=labelled)):
        console.print(f"warning: {warning}", style="yellow", markup=False)


@app.command()
def check(
    data: Data,
    kit: Kit = None,
    key: Key = None,
    server: Server = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Try --server in plain text, on this machine.")
    ] = False,
    state: Annotated[Path | None, typer.Option(help="Also look for room in this folder.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read the headers only, not every voxel.")
    ] = False,
) -> None:
    """Say in plain words what is wrong with a data set, the disk, the memory or the connection, before anything starts.

    With a kit it also dials the coordinator: certificate, key and clock.

    Example: [bold]polyclinic-client check --data /data/brain --kit keys/st-mary.kit.json[/bold]
    """
    from polyclinic_client.cli.check import check_everything
    from polyclinic_client.fleet.connection import make_connection

    connection = (
        make_connection(server, data.name if insecure else None, kit, key, insecure=insecure)
        if kit or server
        else None
    )
    folder = state or state_folder(None, connection.site if connection else data.name)
    check_everything(data, connection, folder, deep=not quick, console=Console(highlight=False))


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A model.safetensors of polyclinic's.")],
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE...", help="NIfTI files (for 2-D tasks also PNG or JPEG)."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")],
) -> None:
    """Segment images, or classify them.

    A segmentation writes one NIfTI label map for each image, with the image's own shape and affine; a classification writes
    predictions.csv. Images that have their result already are left alone, so an interrupted run can be repeated.

    Example: [bold]polyclinic-client predict model.safetensors scan1.nii.gz scan2.nii.gz --out labels/[/bold]
    """
    from polyclinic_client.cli.predict import predict_files

    predict_files(model, images, out, Console(highlight=False))


@app.command()
def adapt(
    data: Data,
    model: Annotated[
        Path,
        typer.Option(
            "--model", help="A universal encoder: of `polyclinic-server pretrain` or `export`."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The model to write, a .safetensors file.")],
    mode: Annotated[
        str,
        typer.Option(
            help="probe: a head on the encoder as it is, in a minute; full: then train both."
        ),
    ] = "full",
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Passes over the training cases. Default: as in a stage."),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="At its highest. Default: as in a stage.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the head and of the order of the cases.")
    ] = 0,
) -> None:
    """Give a universal encoder the head of your own task, on your own labels. Nothing leaves this machine.

    A head is fitted to the encoder as it is (probe); with [bold]--mode full[/bold] encoder and head are then trained together, and the
    better of both on the validation cases is kept. Shows validation and test scores of each class.

    Example: [bold]polyclinic-client adapt --model encoder.safetensors --data /data/chest --out chest.safetensors[/bold]

    Example: [bold]polyclinic-client adapt --model encoder.safetensors --data /data/chest --out chest.safetensors --mode probe[/bold]

    Then: [bold]polyclinic-client predict chest.safetensors scan.nii.gz --out labels/[/bold]
    """
    from polyclinic_strategies.universal.adapt import Wishes, make_table, tell_choice
    from polyclinic_strategies.universal.adapt import adapt as adapt_encoder

    console = Console(highlight=False)
    adapted = adapt_encoder(model, data, out, Wishes(mode, epochs, learning_rate, seed), console)
    console.print(make_table(adapted))
    console.print(tell_choice(adapted), markup=False, soft_wrap=True)
    console.print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB", markup=False)


@app.command()
def segment(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="NIfTI files, or folders of them.")
    ],
    out: Annotated[Path, typer.Option("--out", help="A .nii.gz file for one image, or a folder.")],
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
    at_once: Annotated[
        int, typer.Option(min=1, max=64, help="Images that are worked on at the same time.")
    ] = 2,
    wait: Annotated[
        float,
        typer.Option(min=0.0, help="Seconds to keep trying while the service is busy or away."),
    ] = 600.0,
) -> None:
    """Have images segmented elsewhere without sending them: a warped proxy travels, and the answer is unwarped here.

    What leaves is an array: no header, no name, and not the key of the warp, which is drawn anew for every image. Each label map has its
    image's own shape and affine. Images that have their result already are left alone, so an interrupted run can be repeated.

    Example: [bold]polyclinic-client segment scan.nii.gz --out labels.nii.gz --kit keys/st-mary.kit.json[/bold]

    Example: [bold]polyclinic-client segment scans/ --out labels/ --kit keys/st-mary.kit.json --server segment.example.org:9443[/bold]
    """
    from polyclinic.errors import ConfigError
    from polyclinic_client.cli.segment_options import choose_generator, service_connection

    if answer not in ("labels", "probabilities"):
        raise ConfigError(f"--answer {answer}: labels or probabilities.")
    connection, path = (
        service_connection(server, kit, key, insecure=insecure),
        choose_generator(generator, kit),
    )
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with console.status("loading torch and MONAI"):
        from polyclinic_client.segmentation.segment_files import plan, segment_files
        from polyclinic_strategies.proxy.protection import Protection
    jobs, protection = plan(images, out, preview), Protection.load(path)
    done = segment_files(jobs, connection, protection, answer, at_once, wait, console)
    legend = ", ".join(f"{number} {label}" for number, label in enumerate(protection.labels))
    console.print(f"{done} of {len(jobs)} images segmented, in {out}: {legend}", markup=False)


def main() -> None:
    """The console script."""
    run_command(app)


if __name__ == "__main__":
    main()
