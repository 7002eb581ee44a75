"""`python -m polyclinic_client.site.trial`: train on noise for a moment, and say what it took.

The network, the patch and the batch are those of a coordinator that changes no setting; nothing of
the hospital is read. `polyclinic-client check` runs it in a process of its own, which the kernel
may end when memory runs out.
"""

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from polyclinic.config.compose import instantiate, load_config
from polyclinic.errors import ResourceError
from polyclinic.learning.training import fit
from polyclinic.system.faults import explain
from polyclinic.system.machine import thread_settings
from polyclinic.system.processes import Child, end_with_parent, how_it_ended, python_module

STEPS = 1
MODULE = "polyclinic_client.site.trial"


@dataclass(frozen=True)
class Trial:
    """What a short training took.

    Attributes:
        device: Where it ran.
        threads: Number of cores that it used.
        seconds: For all steps.
        memory_bytes: Most memory that it had: the GPU's, or this process's.
    """

    device: str
    threads: int
    seconds: float
    memory_bytes: int


def train_on_noise() -> Trial:
    """Train for `STEPS` steps; a process's first."""
    config = load_config()
    data, training = config.data, config.training
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    image = torch.randn(data.channels, *data.patch)
    label = torch.randint(len(data.labels), (1, *data.patch))
    samples = [{"image": image, "label": label}] * (STEPS * training.batch_size)
    loader: DataLoader[dict[str, Tensor]] = DataLoader(samples, training.batch_size)  # type: ignore[arg-type]
    network = instantiate(config.model).to(device)
    began = time.monotonic()
    fit(network, loader, training, data)
    seconds = time.monotonic() - began
    memory = (
        torch.cuda.max_memory_allocated()
        if device.type == "cuda"
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    return Trial(device.type, torch.get_num_threads(), seconds, memory)


def try_training(folder: Path, module: str = MODULE) -> Trial:
    """Train on noise in a process of its own.

    Args:
        folder: For its log.
        module: Python module of that process.

    Raises:
        ResourceError: It failed; the text says why.
    """
    child = Child("a training on noise", python_module(module), folder / "log", thread_settings())
    child.start()
    try:
        status = child.wait() or 0
    finally:
        child.stop()
    if status:
        raise ResourceError(
            f"{how_it_ended(status, 'a training on noise ended')}: {child.last_words()}. Close "
            "other programs, or use a machine with more memory; if it is a GPU, look at its driver."
        )
    return Trial(**json.loads(child.log.read_text().splitlines()[-1]))


def main() -> None:
    """Run the module's command."""
    end_with_parent()
    try:
        sys.stdout.write(f"{json.dumps(asdict(train_on_noise()))}\n")
    except Exception as error:
        found = explain(error)
        if found is None:
            raise
        sys.exit(str(found))


if __name__ == "__main__":
    main()
