"""`polyclinic-client segment`: warp an image, have the proxy segmented, unwarp the answer.

The image stays here. What leaves is an array of the generator's shape: no header, no affine, no
name, no path, and never the key of the deformation.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from polyclinic.errors import ConfigError, DataError
from polyclinic.imaging.image_files import check_header
from polyclinic.imaging.volumes import read_image, write_label_map
from polyclinic.system.text import clean_lines
from polyclinic_client.network.connection import Connection
from polyclinic_client.result_names import name_results
from polyclinic_client.segmentation.client import SegmentationLink
from polyclinic_strategies.proxy.protection import Protection, quantize

ENDINGS = (".nii.gz", ".nii")
PREVIEW = ".png"
OnLabelMap = Callable[[Path, Path, Sequence[str]], None]


@dataclass(frozen=True)
class Job:
    """One image, and where its results go."""

    image: Path
    target: Path
    preview: Path | None


def segment_files(
    jobs: Sequence[Job],
    connection: Connection,
    protection: Protection,
    answer: str,
    at_once: int,
    wait_s: float,
    console: Console,
    on_label_map: OnLabelMap | None = None,
) -> int:
    """Write a label map for each image; leave those alone that exist already.

    Args:
        jobs: From `plan`.
        connection: The service's.
        protection: Warps, and unwarps.
        answer: What is asked for: "labels" or "probabilities".
        at_once: Number of images in work at the same time.
        wait_s: Seconds for which one image is tried, when the service is busy or away.
        console: Where progress is shown.
        on_label_map: Called for each label map that is there, with the image, the label map's
            file, and the names of its classes.

    Returns:
        Number of images that were segmented.

    Raises:
        DataError: The typed fault of the first faulty image; the others are segmented before.
        LinkError: The service could not be asked, or did not answer; the class says why.
        ServiceMismatch: The service was made for another generator.
    """
    faults: list[DataError] = []
    tell = on_label_map or (lambda _image, _target, _labels: None)
    todo = [job for job in jobs if not job.target.exists()]
    for job in jobs:
        if job not in todo:
            console.print(f"{job.target} exists, left alone", markup=False)
            try:
                tell(job.image, job.target, protection.labels)
            except DataError as error:
                faults.append(error)
    if todo:
        link = SegmentationLink(
            connection,
            protection.labels,
            protection.shape,
            protection.digest,
            wait_s,
            _teller(console),
        )
        with link, Progress(console=console) as progress:
            task = progress.add_task("segmenting", total=len(todo))

            def work(job: Job) -> None:
                _segment(job, protection, link, answer)
                tell(job.image, job.target, protection.labels)

            for fault in _each(todo, at_once, link, work):
                if fault is not None:
                    faults.append(fault)
                    progress.console.print(f"left out: {clean_lines(fault)}", markup=False)
                progress.advance(task)
    if faults:
        raise faults[0]
    return len(todo)


def plan(images: Sequence[Path], out: Path, preview: Path | None) -> list[Job]:
    """Say which result of which image goes where.

    Args:
        images: Files, and folders of them.
        out: A file for one image, or a folder.
        preview: Likewise, or None.

    Raises:
        ConfigError: No images, two of the same name, or one file for several of them.
    """
    files = [file for image in images for file in (_inside(image) if image.is_dir() else [image])]
    if not files:
        raise ConfigError(
            f"There is neither a NIfTI file (.nii, .nii.gz) nor a DICOM series in "
            f"{', '.join(map(str, images))}."
        )
    single = len(files) == 1 and not images[0].is_dir()
    if not single and out.name.endswith(ENDINGS):
        raise ConfigError(f"--out {out}: one file for {len(files)} images. Name a folder.")
    stems = name_results(files)
    if single and out.name.endswith(ENDINGS):
        return [Job(files[0], out, _preview(preview, stems[0], single=True))]
    return [
        Job(file, out / f"{stem}.nii.gz", _preview(preview, stem, single=single))
        for file, stem in zip(files, stems, strict=True)
    ]


def _segment(job: Job, protection: Protection, link: SegmentationLink, kind: str) -> None:
    header = check_header(job.image)
    volume = read_image(job.image, 1, 3)
    protected = protection.protect(volume)
    answer = link.segment(protected.proxy, kind, str(protected.change))
    labels = protected.reveal(answer)
    if job.preview is not None:
        from polyclinic_strategies.proxy.preview import write_preview

        job.preview.parent.mkdir(parents=True, exist_ok=True)
        canonical = quantize(protected.canonical.image())
        write_preview(
            job.preview,
            volume,
            protected.proxy,
            answer,
            labels,
            protection.labels,
            canonical,
            str(protected.change),
        )
    job.target.parent.mkdir(parents=True, exist_ok=True)
    write_label_map(job.target, labels, header)


def _each(
    jobs: Sequence[Job], at_once: int, link: SegmentationLink, work: Callable[[Job], None]
) -> Iterator[DataError | None]:
    """Work on several at a time; yield a faulty image, end all of them for any other error."""
    ends: list[Exception] = []  # the first is the reason, those after it are its consequences

    def one(job: Job) -> None:
        try:
            if not ends:
                work(job)
        except DataError:
            raise
        except Exception as error:
            # here, not where it is waited for: this thread would have begun the next image by then
            ends.append(error)
            link.leave()
            raise

    pool = ThreadPoolExecutor(at_once, thread_name_prefix="segment")
    futures: list[Future[None]] = [pool.submit(one, job) for job in jobs]
    try:
        for future in as_completed(futures):
            try:
                future.result()
            except DataError as fault:
                yield fault
            except Exception:
                raise ends[0] from ends[0].__cause__
            else:
                yield None
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        link.leave()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _teller(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(clean_lines(text), markup=False)


def _inside(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.name.endswith(ENDINGS) and not file.name.startswith(".")
    )


def _preview(preview: Path | None, stem: str, *, single: bool) -> Path | None:
    if preview is None or (single and preview.suffix):
        return preview
    return preview / f"{stem}{PREVIEW}"
