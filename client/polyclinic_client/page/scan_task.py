"""What the page asks the process that segments a scan for, and what that process says of itself.

Both are files in the state folder. Names of files may be names of patients: they stand in no
process's arguments, which every user of this machine may read.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from polyclinic.errors import ConfigError
from polyclinic.system.durable import write_durably

TASK, SAYS, LOG = "page_segment.task.json", "page_segment.json", "page_segment.log"
LOADING, SEGMENTING, DONE, FAILED = "loading the model", "segmenting", "done", "failed"


class SegmentService(BaseModel):
    """A segmentation service that never sees the scan; see `polyclinic-client segment`.

    Attributes:
        server: HOST:PORT.
        kit, key: Files of this hospital's; None for the key beside the kit.
        generator: What warps and unwarps.
        insecure: Without TLS and keys.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    server: str
    generator: Path
    kit: Path | None = None
    key: Path | None = None
    insecure: bool = False


class ScanTask(BaseModel):
    """What is to be segmented.

    Attributes:
        scan: NIfTI file.
        target: File of the label map.
        model: File of the model; None where a service is asked.
        service: The service.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scan: Path
    target: Path
    model: Path | None = None
    service: SegmentService | None = Field(default=None)

    def write(self, state: Path) -> None:
        """Write it into the state folder."""
        write_durably(state / TASK, self.model_dump_json())


def read_scan_task(state: Path) -> ScanTask:
    """Read what is to be done.

    Raises:
        ConfigError: There is no such file, or a damaged one.
    """
    path = state / TASK
    try:
        return ScanTask.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{path}: cannot be read. Choose the scan on the page again.") from error
