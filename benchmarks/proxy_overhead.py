"""Cost of the deformation beside the segmentation: one scan directly and through its proxy.

    python benchmarks/proxy_overhead.py --model proxy/segmenter.safetensors
        --generator proxy/generator.safetensors --image scan.nii.gz

Both run in one process, in turns. Both bring the scan into the canonical frame, segment
160 x 192 x 160 voxels with the same network and bring the answer back to the scan's grid; the proxy
is also warped and unwarped. `proxy_service.py` measures the cost of the network and the service.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from polyclinic.imaging.volumes import read_image
from polyclinic_server.segmentation.model import SegmentationModel
from polyclinic_strategies.proxy.frame.canonical import canonicalize
from polyclinic_strategies.proxy.measurements import answer
from polyclinic_strategies.proxy.protection import TOP, Protection, quantize


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--model", "--generator", "--image"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    protection, model, volume = (
        Protection.load(asked.generator),
        SegmentationModel.load(asked.model),
        read_image(asked.image, 1, 3),
    )

    def directly() -> None:
        canonical = canonicalize(volume, protection.reference)
        canonical.label_map(
            torch.from_numpy(answer(model.network, quantize(canonical.image()), model.data)),
            None,
            TOP,
        )

    def through_a_proxy() -> None:
        protected = protection.protect(volume)
        protected.reveal(answer(model.network, protected.proxy, model.data))

    directly(), through_a_proxy()  # the first of each is slower
    seconds: dict[str, list[float]] = {"directly": [], "through a proxy": []}
    for _ in range(asked.repeats):
        seconds["directly"].append(timed(directly))
        seconds["through a proxy"].append(timed(through_a_proxy))
    for name, values in seconds.items():
        print(f"{name}: {median(values):.2f} s ({min(values):.2f} to {max(values):.2f})")
    print(f"ratio: {median(seconds['through a proxy']) / median(seconds['directly']):.2f}")


def timed(work: Callable[[], None]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


if __name__ == "__main__":
    main()
