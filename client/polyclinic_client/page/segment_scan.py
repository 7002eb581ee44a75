"""The process that segments one scan: `python -m polyclinic_client.page.segment_scan STATE`.

It is beside the page, so that the page answers meanwhile, and its memory is free afterwards. It has
no more memory than the policy says, and gives way to training.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from polyclinic.errors import ConfigError
from polyclinic.system.faults import explain
from polyclinic.system.machine import limit_memory
from polyclinic.system.processes import end_with_parent
from polyclinic.system.text import clean_lines
from polyclinic_client.page.scan_task import (
    DONE,
    FAILED,
    LOADING,
    SAYS,
    SEGMENTING,
    ScanTask,
    SegmentService,
    read_scan_task,
)
from polyclinic_client.policy.policy import read_policy
from polyclinic_client.site.status import StatusFile

NICENESS = 10
PATIENCE_S = 600.0  # while a service is busy or away


def segment_scan(task: ScanTask, state: Path, tell: Callable[[int], None]) -> tuple[str, ...]:
    """Write the label map of a scan.

    Args:
        task: What is to be done.
        state: The hospital's state folder.
        tell: Told how many parts of the scan are done, as they are.

    Returns:
        Name of label 0, 1, ...; empty where a number stands for none.

    Raises:
        PolyclinicError: The typed fault of the scan, the model or the service.
    """
    task.target.parent.mkdir(parents=True, exist_ok=True)
    if task.model is not None:
        return _by_model(task.scan, task.target, task.model, tell)
    if task.service is None:
        raise ConfigError("Neither a model nor a service was named.")
    return _by_service(task, task.service, state)


def _by_model(
    scan: Path, target: Path, model: Path, tell: Callable[[int], None]
) -> tuple[str, ...]:
    from polyclinic.imaging.volumes import write_label_map
    from polyclinic.learning.model_file import load_model
    from polyclinic.learning.prediction import predict_label_map

    network, job = load_model(model)
    if job.data.task == "own" or not job.data.kind.per_voxel:
        raise ConfigError(
            f"{model}: this model makes no label map. Use it with `polyclinic-client predict`, or "
            "choose one that segments."
        )
    parts = 0

    def count(*_: object) -> None:
        nonlocal parts
        parts += 1
        tell(parts)

    network.register_forward_hook(count)
    labels, header = predict_label_map(network, scan, job.data)
    write_label_map(target, labels, header)
    names = job.data.kind.drawn(job.data.labels)
    values = (0, *job.data.region_values) if job.data.region_values else range(len(names))
    named = dict(zip(values, names, strict=True))
    return tuple(named.get(value, "") for value in range(max(named) + 1))


def _by_service(task: ScanTask, service: SegmentService, state: Path) -> tuple[str, ...]:
    from polyclinic.security.secret import Secret
    from polyclinic.system.console import LineConsole
    from polyclinic_client.segmentation.segment_files import Job, segment_files
    from polyclinic_client.segmentation.service_choice import SECRET, service_connection
    from polyclinic_strategies.proxy.protection import Protection

    connection = service_connection(
        service.server, service.kit, service.key, insecure=service.insecure, state=state
    )
    protection = Protection.load(service.generator, Secret(state / SECRET))
    task.target.unlink(missing_ok=True)  # what is there would be left alone
    job = Job(task.scan, task.target, None)
    segment_files([job], connection, protection, "probabilities", 1, PATIENCE_S, LineConsole())
    return tuple(protection.labels)


def main() -> int:
    """Do what the task in the state folder says, and say there how it went."""
    end_with_parent()
    os.nice(NICENESS)
    state = Path(sys.argv[1])
    says = StatusFile(state / SAYS)
    says.write(LOADING, {}, force=True)
    try:
        limit_memory(read_policy(state).memory_bytes)
        task = read_scan_task(state)
        labels = segment_scan(task, state, lambda parts: says.write(SEGMENTING, {"step": parts}))
    except Exception as error:
        found = explain(error)
        if found is None:
            raise
        says.write(FAILED, {"reason": clean_lines(found)}, force=True)
        return found.exit_code
    says.write(DONE, {"labels": list(labels)}, force=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
