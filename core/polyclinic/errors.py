"""Every error that polyclinic raises on purpose.

One sentence each: what is wrong, where, and what to do about it.

    PolyclinicError
    ├── ConfigError                 a setting                                    exit code 2
    │   ├── UnknownName             a name that conf/ does not have
    │   ├── NameTaken               a package offers a name that is there already
    │   ├── MethodMissing           a federation's method that is not installed here
    │   ├── PluginMismatch          a package that one side lacks, or has another version of
    │   ├── StatisticInvalid        a package's statistic that is not what one must be
    │   │   └── StatisticFailed     one that raised an exception
    │   ├── KeyInvalid              a key's file
    │   ├── MappingInvalid          a series.yaml
    │   ├── SiteMapInvalid          a hospital's map of patients, or its key
    │   ├── KitInvalid              the kit from a coordinator
    │   ├── NotAllowed              a run asks for what a hospital's policy does not allow
    │   ├── ServiceMismatch         a generator and a segmentation service (service_errors.py)
    │   └── ConfigMismatch          the two sides would build different things
    ├── DataError                   a hospital's files                           exit code 3
    │   ├── DatasetInvalid          dataset.json itself
    │   ├── FileMissing             a file that dataset.json names
    │   ├── ImageUnreadable         not an image, truncated, impossible header
    │   ├── ImageTooLarge           a header that claims more than the limit
    │   ├── ImageInvalid            readable, but NaN or Inf inside
    │   ├── LabelInvalid            a label outside the declared classes
    │   ├── ShapeMismatch           image and label on different grids
    │   ├── DicomUnreadable         a DICOM file (the client's dicom/errors.py)
    │   ├── SeriesRefused           a DICOM series that is no volume
    │   ├── LabelsRefused           a DICOM SEG or RTSTRUCT that does not fit its series
    │   ├── NothingFound            nothing to import
    │   ├── ScanNotRecognized       not what the deformation proxy knows (its frame.canonical)
    │   └── TooFewSubjects          a statistic over so few subjects that it would reveal them
    ├── ModelInvalid                a weights file that does not fit             exit code 3
    │   ├── BundleInvalid           a MONAI bundle that cannot be taken
    │   └── WeightsInvalid          weights that the coordinator sent
    ├── ContributionRefused         a hospital's contribution (refusals.py)      exit code 3
    │   ├── BaseMismatch            made on a base that the federation never had
    │   ├── StaleBase               made on a base that was replaced too often since
    │   ├── TensorsMissing          tensors of the base that it lacks
    │   ├── TensorsExtra            tensors that the base does not have
    │   ├── ShapeRefused            a tensor of another shape
    │   ├── StatisticsMissing       a statistic that was asked for
    │   ├── TypeRefused             a tensor that is not float32
    │   ├── NotFinite               NaN or Inf inside
    │   ├── NormTooLarge            norm much larger than the others'
    │   ├── UpdateTooLong           norm larger than training can make it
    │   ├── TooManyExamples         more training examples than a hospital has
    │   ├── StatisticRefused        a statistic that is missing, not asked for, or none
    │   ├── ContributionTooLarge    more bytes than the limit
    │   ├── UnknownSite             not one of the federation's hospitals
    │   ├── SiteMismatch            sent in another hospital's name
    │   ├── TaskMismatch            made for another task
    │   └── ContributionDamaged     not a contribution, or not all of it
    ├── LinkError                   the network                                  exit code 4
    │   ├── AddressInvalid
    │   ├── BindFailed
    │   │   ├── PortTaken
    │   │   ├── PortForbidden
    │   │   ├── AddressForeign
    │   │   └── HostUnknown
    │   ├── ServerUnreachable       ServiceUnreachable (service_errors.py)
    │   ├── FrameInvalid            what the other side sent is damaged or beyond a limit
    │   ├── AnswerRefused           what a hospital answered is not what it was asked for
    │   ├── PacsUnreachable, PacsRefused
    │   ├── ServiceBusy, RequestRefused, AnswerInvalid
    │   └── AdmissionRefused        keys and certificates (admission.py)
    ├── RunError                    a run that could not go on                   exit code 5
    │   ├── RunNotFound
    │   ├── TooFewHospitals
    │   └── ProcessDied
    ├── LedgerError                 the store of contributions                   exit code 5
    │   ├── LedgerNotFound
    │   ├── NothingToWithdraw
    │   ├── InsideBatch             in a secure sum, which is withdrawn as a whole
    │   └── LedgerDamaged           what it holds is not what was written
    └── ResourceError               the machine                                  exit code 6
        ├── LimitExceeded           more than a hospital allows a coordinator
        ├── DiskFull
        ├── OutOfMemory             of the machine, or of its GPU
        └── StorageFailed           a file or folder that the system does not give

An error is `shareable` when its text says nothing about a hospital's files, so that it may travel
to the coordinator; of every other error only the type's name leaves the hospital.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path


class PolyclinicError(Exception):
    """Root of the tree: a plain sentence, and the exit code of the command that ends with it."""

    exit_code = 1
    shareable = False


class ConfigError(PolyclinicError):
    """A setting is wrong."""

    exit_code = 2
    shareable = True


class UnknownName(ConfigError):
    """A name that `conf/` does not have; the message lists the known names."""

    def __init__(self, group: str, name: str, known: Sequence[str]) -> None:
        close = get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        super().__init__(f"There is no {group} called '{name}'.{hint} Known: {', '.join(known)}.")


class NameTaken(ConfigError):
    """An installed package offers a name of `conf/` that is there already."""

    def __init__(self, group: str, name: str, package: str, holder: str) -> None:
        super().__init__(
            f"The package {package} offers {group}={name}, which {holder} has already: uninstall "
            f"{package}, or ask its authors for a version with another name."
        )


class MethodMissing(ConfigError):
    """A federation's method that is not installed here."""

    def __init__(self, method: str, package: str = "") -> None:
        brings = f" (it was {package} at the coordinator)" if package else ""
        super().__init__(
            f"This federation runs the method {method}, which is not installed here: install the "
            f"package that brings it{brings}."
        )


class PluginMismatch(ConfigError):
    """A package that a job needs, of which the two sides do not have the same version."""

    def __init__(self, package: str, ours: str | None, theirs: str | None) -> None:
        here = f"the hospital has {ours}" if ours else "the hospital has not installed it"
        there = f"the coordinator has {theirs}" if theirs else "the coordinator does without it"
        super().__init__(
            f"This federation's work needs the package {package}: {there}, {here}. Install the "
            "same version of it on both sides."
        )


class NotAllowed(ConfigError):
    """A run asks for what a hospital's own policy, or its staff, does not allow.

    Args:
        why: A sentence for both sides, without its full stop.
        remedy: What the coordinator can do.
    """

    def __init__(self, why: str, remedy: str = "Ask the hospital.") -> None:
        super().__init__(f"{why}. {remedy}")


class StatisticInvalid(ConfigError):
    """A statistic of an installed package is not what one must be, or returns something else.

    Args:
        name: The statistic's.
        package: The package that offers it.
        problem: What is wrong, with a verb.
    """

    def __init__(self, name: str, package: str, problem: str) -> None:
        super().__init__(
            f"The statistic {name} of the package {package} {problem}. Correct the package and "
            "install it again, or uninstall it."
        )


class StatisticFailed(StatisticInvalid):
    """A statistic raised an exception, which is chained: its text may tell about images."""


class KeyInvalid(ConfigError):
    """A key file cannot be used."""


class KitInvalid(ConfigError):
    """A file is not a coordinator's kit."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"{path}: not a coordinator's kit ({problem}). "
            "Ask the coordinator to send the kit again."
        )


class ConfigMismatch(ConfigError):
    """Coordinator and hospital would build different things from the same names."""

    def __init__(self, group: str, name: str, ours: str, theirs: str) -> None:
        super().__init__(
            f"conf/{group}/{name}.yaml differs between the hospital (polyclinic {ours}) and the "
            f"coordinator (polyclinic {theirs}): install the same version, with the same conf/, "
            "on both sides."
        )


class DataError(PolyclinicError):
    """A hospital's files are not as `dataset.json` promises."""

    exit_code = 3


class DatasetInvalid(DataError):
    """`dataset.json` is missing, is not JSON, or lacks something."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}. {remedy}")


class FileMissing(DataError):
    """`dataset.json` names a file that does not exist.

    Args:
        path: The file.
        split: Where it is listed.
        instead: What is there in its place, with a verb.
    """

    def __init__(self, path: Path, split: str, instead: str = "") -> None:
        super().__init__(
            f"{path}: dataset.json lists this file under '{split}', but it "
            f"{instead or 'does not exist'}. Restore it or remove the entry."
        )


class ImageUnreadable(DataError):
    """A file cannot be read as an image."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"{path}: cannot be read as an image ({problem}). Export it again, or leave it out."
        )


class ImageTooLarge(DataError):
    """A header claims more memory than the limit."""

    def __init__(self, path: Path, claimed_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"{path}: its header claims {claimed_bytes / 2**30:,.1f} GiB of voxels, the limit is "
            f"{limit_bytes / 2**30:,.1f} GiB. The file is damaged, or needs to be cropped or "
            "resampled first."
        )


class ImageInvalid(DataError):
    """An image holds values that no scanner makes."""

    def __init__(self, path: Path, problem: str, remedy: str = "Export it again") -> None:
        super().__init__(f"{path}: {problem}. {remedy}, or leave the image out.")


class LabelInvalid(DataError):
    """A label map holds a value outside the declared classes."""

    def __init__(
        self,
        path: Path,
        found: Sequence[int | float],
        declared: Sequence[int],
        scale: float = 1.0,
    ) -> None:
        values = ", ".join(f"{value:.9g}" for value in found)
        known = ", ".join(map(str, declared)) or "whole numbers"
        scaled = "" if scale == 1 else f" (its header multiplies what is stored by {scale:.9g})"
        super().__init__(
            f"{path}: has label {values}{scaled}, but dataset.json declares {known}. Correct the "
            "label map, or add the class to 'labels'."
        )


class ShapeMismatch(DataError):
    """Image and label map, or the files of an image's channels, do not lie on the same grid.

    Args:
        image: The image, or the file of its first channel.
        image_grid: Its grid in words.
        other: The label map, or the file of another channel.
        other_grid: Its grid in words.
        apart_mm: Largest distance between their corners, where the shapes are equal.
    """

    def __init__(
        self,
        image: Path,
        image_grid: str,
        other: Path,
        other_grid: str,
        apart_mm: float | None = None,
    ) -> None:
        apart = "" if apart_mm is None else f"; their corners are up to {apart_mm:.3g} mm apart"
        super().__init__(
            f"{other}: its grid is {other_grid}, but its image {image.name} has "
            f"{image_grid}{apart}. Resample it onto the image."
        )


class TooFewSubjects(DataError):
    """A statistic would be taken over so few subjects that it would reveal them."""

    shareable = True

    def __init__(self, subjects: int, minimum: int) -> None:
        super().__init__(
            f"The hospital has {subjects} subjects to describe itself with, "
            f"at least {minimum} are needed so that no one of them shows: "
            "add cases to 'training' or 'test', or agree on a lower number on both sides "
            "(privacy.release.min_subjects, `polyclinic-client join --min-subjects`)."
        )


class ModelInvalid(PolyclinicError):
    """A weights file is damaged or belongs to another network."""

    exit_code = 3


class BundleInvalid(ModelInvalid):
    """A MONAI bundle that is damaged, or asks for what polyclinic does not do."""

    def __init__(self, place: object, reason: str, remedy: str) -> None:
        super().__init__(f"{place}: {reason}. {remedy}.")


class WeightsInvalid(ModelInvalid):
    """Weights that arrived do not fit, or are not finite."""

    shareable = True


class LinkError(PolyclinicError):
    """A fault of the network."""

    exit_code = 4


class AddressInvalid(LinkError):
    """An address is not of the form HOST:PORT."""

    def __init__(self, address: str, problem: str) -> None:
        super().__init__(
            f"'{address}' is not an address ({problem}). Write HOST:PORT, for example "
            "127.0.0.1:9092."
        )


class BindFailed(LinkError):
    """A server cannot listen where it should."""


class PortTaken(BindFailed):
    """Another program listens on the port."""

    def __init__(self, host: str, port: int, setting: str) -> None:
        super().__init__(
            f"Port {port} on {host} is taken by another program. Stop it, or choose another port "
            f"with {setting}."
        )


class PortForbidden(BindFailed):
    """Only a privileged user may listen on the port."""

    def __init__(self, host: str, port: int, setting: str) -> None:
        super().__init__(
            f"Port {port} on {host} is not allowed to this user: ports under 1024 need a right of "
            f"their own. Choose a port from 1024 on with {setting}, and have the firewall forward "
            f"{port} to it if hospitals must dial {port}."
        )


class AddressForeign(BindFailed):
    """The address to listen on is not one of this machine's."""

    def __init__(self, host: str, setting: str) -> None:
        super().__init__(
            f"{host} is not an address of this machine, so nothing can listen there. Choose one of "
            f"its own addresses, or :: or 0.0.0.0 for all of them, with {setting}."
        )


class HostUnknown(BindFailed):
    """The name of the address to listen on is not known."""

    def __init__(self, host: str, setting: str) -> None:
        super().__init__(
            f"The name {host} is not known on this machine, so nothing can listen there. Choose an "
            f"address of this machine with {setting}."
        )


class ServerUnreachable(LinkError):
    """Nothing answers at the coordinator's address."""

    def __init__(self, address: str, problem: str) -> None:
        self.problem = problem
        super().__init__(
            f"No coordinator answers at {address} ({problem}). Check the address, "
            "that `polyclinic-server run` is up, and that the firewall lets this machine dial out "
            "to that port."
        )


class FrameInvalid(LinkError):
    """What the other side sent cannot be read, or is beyond a limit."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"A message cannot be read: {problem}. Install the same version of polyclinic on both "
            "sides; if they are the same already, something between them changes what is sent."
        )


class AnswerRefused(LinkError):
    """What a hospital answered is not what it was asked for.

    Args:
        problem: What is wrong with it.
        remedy: What the hospital can do about it, a sentence.
    """

    def __init__(
        self, problem: str, remedy: str = "Install the same version of polyclinic on both sides."
    ) -> None:
        super().__init__(f"{problem}. {remedy}")


class RunError(PolyclinicError):
    """A run could not go on."""

    exit_code = 5
    shareable = True


class RunNotFound(RunError):
    """There is no run of that name."""

    def __init__(self, name: str, folder: Path, known: Sequence[str]) -> None:
        listed = (
            f"Known: {', '.join(known)}."
            if known
            else "There are none yet: `polyclinic-server run` makes one."
        )
        super().__init__(f"There is no run '{name}' in {folder}. {listed}")


class TooFewHospitals(RunError):
    """Fewer hospitals answered than the configured minimum."""

    def __init__(
        self,
        what: str,
        answered: Sequence[str],
        missing: Sequence[str],
        minimum: int,
        waited_s: float,
    ) -> None:
        present = ", ".join(answered) or "nobody"
        absent = f" Missing: {', '.join(missing)}." if missing else ""
        super().__init__(
            f"{what}: {present} answered within {waited_s:.0f} s, the minimum is "
            f"{minimum}.{absent} Start the missing hospitals and resume, "
            "or lower deployment.min_hospitals."
        )


class ProcessDied(RunError):
    """A child process ended when it should have gone on."""

    def __init__(self, what: str, status: int, reason: str) -> None:
        killed = ", killed: probably memory ran out" if status == -9 else ""
        super().__init__(f"{what} ended with status {status}{killed}: {reason}")


class LedgerError(PolyclinicError):
    """The ledger cannot do what it was asked to."""

    exit_code = 5
    shareable = True


class LedgerNotFound(LedgerError):
    """There is no ledger in that folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder}: there is no ledger here. Name its folder with --ledger; a run with "
            "strategy=merging/mean makes one."
        )


class NothingToWithdraw(LedgerError):
    """A site has no active contribution."""

    def __init__(self, site: str, known: Sequence[str]) -> None:
        super().__init__(
            f"{site} has no active contribution to withdraw. Active: {', '.join(known) or 'none'}."
        )


class InsideBatch(LedgerError):
    """A site's contribution is in a secure sum, and cannot be withdrawn alone."""

    def __init__(self, site: str, batch: str, members: Sequence[str]) -> None:
        super().__init__(
            f"{site} is in the secure sum {batch} with {', '.join(members)}, and nobody can take "
            f"it out of it. Withdraw all of them: polyclinic-server ledger withdraw {batch}."
        )


class LedgerDamaged(LedgerError):
    """The ledger does not hold what was written."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(
            f"{where}: {problem}. Stop the coordinator, keep this folder as it is, and restore it "
            "from a backup."
        )


class ResourceError(PolyclinicError):
    """The machine lacks memory, disk or a permission."""

    exit_code = 6
    shareable = True


class LimitExceeded(ResourceError):
    """A coordinator asks for more than a hospital's own limits allow.

    Args:
        asked: What it asks for.
        limit: What is allowed.
        option: Of `polyclinic-client join`, with which the hospital may allow more; or empty.
    """

    def __init__(self, asked: str, limit: str, option: str) -> None:
        remedy = f" The hospital may allow more: `polyclinic-client join {option}`."
        super().__init__(
            f"The coordinator asks for {asked}, and this hospital's limit is {limit}: ask for less."
            f"{remedy if option else ''}"
        )


class DiskFull(ResourceError):
    """There is no room left to write."""

    def __init__(self, folder: Path, free_bytes: int, needed_bytes: int) -> None:
        super().__init__(
            f"{folder}: {free_bytes / 2**20:,.0f} MiB are free, {needed_bytes / 2**20:,.0f} MiB "
            "are needed. Free some space, or choose another folder."
        )


class OutOfMemory(ResourceError):
    """Memory ran out: the machine's, or its GPU's."""

    def __init__(self, whose: str) -> None:
        super().__init__(
            f"The memory of the {whose} ran out. Close other programs on it, use one with more "
            "memory, or have the federation choose a smaller data.patch or training.batch_size."
        )


class StorageFailed(ResourceError):
    """The system does not give a file or a folder: rights, a share that went away, a lock."""

    shareable = False

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"{path}: cannot be used ({problem}). Check that it exists and that this user may "
            "read and write it; if it lies on a network share, choose a folder on a local disk."
        )


def shareable_text(error: BaseException) -> str:
    """Return what may leave a hospital: an error's type, and its text if it is `shareable`."""
    name = type(error).__name__
    return f"{name}: {error}" if isinstance(error, PolyclinicError) and error.shareable else name
