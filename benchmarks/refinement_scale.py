"""Cost for the coordinator when one of a thousand hospitals contributes again.

    python benchmarks/refinement_scale.py [--hospitals 1000] [--parameters 1000000]
                                          [--folder build/refinement-scale]

The cost is that of the centre, everybody's coefficients, and the hospital's own model.
Contributions are random vectors with random descriptions of the size of the demo's. They are in a
real ledger on disk, and arrive and are recalculated as in a run. This needs as much disk as the
contributions have (4 GB).
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from measuring import machine

from polyclinic.describing.statistics import DESCRIPTION
from polyclinic.describing.uncertainty import error_name
from polyclinic.learning.state_dict import StateDict, state_digest
from polyclinic.store.contribution import Contribution, write_contribution
from polyclinic.store.ledger import Ledger
from polyclinic.store.requirements import Requirements
from polyclinic_strategies.merging.publisher import Publisher
from polyclinic_strategies.merging.rules.mean import Mean
from polyclinic_strategies.refinement.refine import Recipe
from polyclinic_strategies.refinement.refiner import Description, Refiner, affected

RESULTS = Path(__file__).with_name("results")
LAYERS, NUMBERS, UPDATES = 10, 1728, 5
VARIANCE = 0.01  # of each mean


class Thousand:
    """A ledger with many hospitals."""

    def __init__(self, folder: Path, parameters: int) -> None:
        self.folder = folder
        self.ledger = Ledger.open(folder / "ledger")
        self.base: StateDict = {
            f"layer{number}": torch.zeros(parameters // LAYERS) for number in range(LAYERS)
        }
        self.digest = self.ledger.add_base(self.base)
        assert self.digest == state_digest(self.base)
        layout = {name: tuple(tensor.shape) for name, tensor in self.base.items()}
        self.requirements = Requirements(self.digest, layout, "scale", None, 2**30, 0.0, {}, 0)

    def contribute(self, site: str, seed: int) -> None:
        """Add one hospital's contribution."""
        generator = torch.Generator().manual_seed(seed)
        vector = {
            name: 0.01 * torch.randn(tensor.shape, generator=generator)
            for name, tensor in self.base.items()
        }
        described = {
            f"{DESCRIPTION}average_image": describe(generator),
            f"{DESCRIPTION}{error_name('average_image')}": torch.tensor([VARIANCE]),
        }
        about = Contribution(site, self.digest, "scale", 10, {}, float(seed), "0")
        path = write_contribution(self.folder, about, vector, described)
        self.ledger.receive(path, site, self.requirements)
        path.unlink()


def describe(generator: torch.Generator) -> torch.Tensor:
    """Return a random description, near one of a few contrasts."""
    contrast = int(torch.randint(6, (1,), generator=generator))
    centre = torch.randn(NUMBERS, generator=torch.Generator().manual_seed(contrast))
    mean = centre + 0.3 * torch.randn(NUMBERS, generator=generator)
    return mean / torch.linalg.vector_norm(mean)


def main() -> None:
    """Fill the ledger, then update hospitals one by one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hospitals", type=int, default=1000)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path("build/refinement-scale"))
    arguments = parser.parse_args()
    many = Thousand(arguments.folder, arguments.parameters)
    for number in range(arguments.hospitals):
        many.contribute(f"site-{number:04d}", number)
    publisher = Publisher(many.ledger, 0, 0.5, many.ledger.folder / "sums")
    refiner = Refiner(publisher)
    recipe, own = Recipe("posterior"), Recipe("posterior", sharpness=0.4)
    start = time.monotonic()
    publisher.publish(Mean(), publisher.merge(Mean()))
    known = refiner.all_coefficients(recipe, own)
    first_s = time.monotonic() - start
    parts: dict[str, list[float]] = {
        "receive": [],
        "centre": [],
        "coefficients": [],
        "own model": [],
        "join": [],
    }
    for number in range(UPDATES):
        site = f"site-{number * 7:04d}"
        marks = [time.monotonic()]
        many.contribute(site, arguments.hospitals + number)
        marks.append(time.monotonic())
        publisher.publish(Mean(), publisher.merge(Mean()))
        marks.append(time.monotonic())
        latest = refiner.all_coefficients(recipe, own)
        changed = affected(known, latest)
        known = latest
        marks.append(time.monotonic())
        refiner.model(next(each for each in known if each.site == site))
        marks.append(time.monotonic())
        refiner.describe(
            f"new-{number}",
            Description(
                many.digest, 5, {"average_image": describe(torch.Generator().manual_seed(-number))}
            ),
        )
        refiner.model(refiner.coefficients(f"new-{number}", recipe))
        marks.append(time.monotonic())
        for name, begun, ended in zip(parts, marks, marks[1:], strict=False):
            parts[name].append(ended - begun)
        print(
            f"{site}: {len(changed)} models change",
            {name: round(values[-1], 3) for name, values in parts.items()},
            flush=True,
        )
    recalculated = [
        sum(values)
        for values in zip(parts["centre"], parts["coefficients"], parts["own model"], strict=True)
    ]
    found = {
        "machine": machine(),
        "hospitals": arguments.hospitals,
        "parameters": arguments.parameters,
        "first_s": first_s,
        "median_s": {name: statistics.median(values) for name, values in parts.items()},
        "recalculation_s": recalculated,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "refinement_scale.json").write_text(json.dumps(found, indent=1) + "\n")
    print(
        f"recalculation after an update: median {statistics.median(recalculated):.2f} s, worst "
        f"{max(recalculated):.2f} s"
    )


if __name__ == "__main__":
    main()
