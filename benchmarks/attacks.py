"""Attacks that we run ourselves: what updates and models reveal, with and without protections.

    POLYCLINIC_DATA=... python benchmarks/attacks.py build/attacks
    python benchmarks/attacks.py --smoke build/attacks

Chest radiographs of 28 x 28 pixels (pneumoniamnist); `--smoke` draws images and does little of
everything. FOLDER/attacks.html has tables and pictures, FOLDER/attacks.json the figures. About
seven minutes on one core. Three attacks:

- gradient inversion of what one hospital sends, after 1, 4 and 16 steps on one image each;
- a model with an imprint layer, which a dishonest coordinator sends;
- membership inference on one hospital's update, a refined model and the published model.

Each without protection, with clipping alone, with differential privacy for each patient, and in a
sum of ten hospitals. Epsilon is that of a hospital with 50 images that makes 40 steps of 25. In
membership inference a third of the labels is wrong, so that there is something to remember; each
federation is attacked in turn, with the others as shadow models.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from leaks.images import (
    DELTA,
    NO_NOISE,
    make_network,
    read_images,
    train_plainly,
    train_privately,
    training_of,
)
from leaks.imprint import CLEAR, imprint, is_refused
from leaks.inversion import PRIORS, gradients, invert, matched, mean_guess, steps_on, update_of
from leaks.members import Federation, attack, train_federation, wrong_labels
from leaks.page import shown, write_page
from measuring import machine
from torch import Tensor, nn

from polyclinic.learning.optimizing.stepping import Stepper
from polyclinic.learning.private.accounting import Spending, find_noise

Rows = list[dict[str, object]]
See = Callable[[int], tuple[Tensor, Tensor]]  # of a target: an update, and the labels in it
PATIENTS, BATCH, STEPS = 50, 25, 40  # of a hospital that trains privately
EPSILONS = (8.0, 1.0)
HOSPITALS_IN_SUM = 10


@dataclass(frozen=True)
class Size:
    """How much is done."""

    targets: int = 3
    iterations: int = 300
    shadows: int = 3
    hospitals: int = 2
    passes: int = 60
    steps: int = STEPS


SMOKE = Size(targets=2, iterations=3, shadows=2, hospitals=2, passes=1, steps=1)


def noise_for(epsilon: float) -> Spending:
    """Return a hospital's steps of private training."""
    share = BATCH / PATIENTS
    return Spending(share, find_noise(epsilon, DELTA, share, STEPS), STEPS)


def shortened(gradient: Tensor, noise: float) -> Tensor:
    """Return one patient's gradient as a private step has it, were the patient drawn alone."""
    return gradient / max(1.0, float(gradient.norm())) + noise * torch.randn_like(gradient)


def run_inversion(images: Tensor, labels: Tensor, size: Size) -> tuple[Rows, list[Tensor]]:
    """Invert updates of one hospital and of a sum."""
    network, rate = make_network(), 0.01
    targets = images[: size.targets]
    rows: Rows = []
    pictures: list[Tensor] = [targets]

    def add(what: str, found: Tensor, scores: Tensor, seconds: float) -> None:
        rows.append({"what is seen": what, "SSIM": float(scores.mean()), "seconds": seconds})
        pictures.append(found)
        print(f"inversion, {what}: SSIM {float(scores.mean()):.3f}, {seconds:.0f} s", flush=True)

    guess = mean_guess(images, range(100, len(images))).expand_as(targets)
    add("nothing: the mean of other images", guess, matched(guess, targets)[1], 0.0)

    def each(what: str, see: See, priors: Sequence[float] = PRIORS[:1]) -> None:
        began, found, scores = time.monotonic(), [], []
        for at in range(size.targets):
            update, known = see(at)
            tries = []
            for prior in priors:  # the better one counts, as if the attacker knew which it is
                made = invert(network, update, known, size.iterations, at, prior)
                ordered, similar = matched(made, images[at : at + len(known)])
                tries.append((float(similar[0]), ordered[0]))
            score, image = max(tries, key=lambda each: each[0])
            found.append(image)
            scores.append(torch.tensor(score))
        add(what, torch.stack(found), torch.stack(scores), time.monotonic() - began)

    def steps(count: int, at: int) -> tuple[Tensor, Tensor]:
        part = slice(at, at + count)
        after = steps_on(network, images[part], labels[part], rate)
        return update_of(network, after), labels[part]

    def private(noise: float, at: int) -> tuple[Tensor, Tensor]:
        one = gradients(network, images[[at]], labels[[at]], graph=False)
        return -shortened(one, noise), labels[[at]]

    for count in (1, 4, 16):
        each(f"an update after {count} step(s), one image each", partial(steps, count))
    each("a secure sum of 10 hospitals, one image each", partial(_summed, network, images, labels))
    each("one image, clipped", partial(private, NO_NOISE))
    for epsilon in EPSILONS:
        noise = noise_for(epsilon).noise
        each(f"one image, clipped, noise of epsilon {epsilon:g}", partial(private, noise), PRIORS)
    return rows, pictures


def _summed(network: nn.Module, images: Tensor, labels: Tensor, at: int) -> tuple[Tensor, Tensor]:
    """Return the sum of ten hospitals' updates."""
    part = slice(at, at + HOSPITALS_IN_SUM)
    return -gradients(network, images[part], labels[part], graph=False), labels[part]


def run_imprint(images: Tensor, size: Size) -> tuple[Rows, list[Tensor]]:
    """Take images out of the updates of an imprint layer."""
    targets = images[: size.targets]
    rows: Rows = []
    pictures: list[Tensor] = [targets]
    settings: list[tuple[str, int, float | None]] = [
        ("a batch of 8", 8, None),
        ("a batch of 32", 32, None),
        (f"a secure sum of {HOSPITALS_IN_SUM} batches of 8", 8 * HOSPITALS_IN_SUM, None),
        ("a batch of 8, each clipped", 8, NO_NOISE),
    ]
    settings += [
        (f"a batch of 8, noise of epsilon {each:g}", 8, noise_for(each).noise) for each in EPSILONS
    ]
    for what, count, noise in settings:
        found, scores = imprint(images[:count], targets, noise)
        taken = float((scores > CLEAR).double().mean())
        rows.append({"what is seen": what, "SSIM": float(scores.mean()), "taken": taken})
        pictures.append(found)
        print(f"imprint, {what}: SSIM {float(scores.mean()):.3f}, taken {taken:.2f}", flush=True)
    refused = is_refused(images[:8])
    rows.append({"what is seen": "with the guard", "SSIM": "refused" if refused else "not refused"})
    rows[-1]["taken"] = 0.0 if refused else 1.0
    return rows, pictures


def run_membership(images: Tensor, labels: Tensor, size: Size) -> Rows:
    """Attack models of hospitals that train with each protection."""
    used = 2 * PATIENTS * size.hospitals
    images, base = images[:used], make_network()
    labels = wrong_labels(labels[:used])
    training = training_of(0.002)

    def plain(network: nn.Module, own: Tensor, wanted: Tensor) -> None:
        steps = size.passes * len(own) // 16
        train_plainly(Stepper(network, training), own, wanted, steps, 16)

    def private(spending: Spending, network: nn.Module, own: Tensor, wanted: Tensor) -> None:
        some = replace(spending, steps=size.steps)
        train_privately(Stepper(network, training_of(0.002)), own, wanted, some)

    ways = {"none": plain}
    ways["clipping alone"] = partial(private, Spending(BATCH / PATIENTS, NO_NOISE, STEPS))
    for epsilon in EPSILONS:
        ways[f"epsilon {epsilon:g}"] = partial(private, noise_for(epsilon))
    rows: Rows = []
    for name, train in ways.items():
        began = time.monotonic()
        made = [
            train_federation(base, images, labels, size.hospitals, train, seed)
            for seed in range(size.shadows + 1)
        ]
        seconds = time.monotonic() - began
        rows += [{"protection": name, **row} for row in _mean_attack(made, images, labels)]
        for row in rows[-3:]:
            print(" ".join(f"{key}: {shown(value)}" for key, value in row.items()), flush=True)
        print(f"{seconds:.0f} s", flush=True)
    return rows


def _mean_attack(made: Sequence[Federation], images: Tensor, labels: Tensor) -> Rows:
    """Attack each federation with the others as shadow models; return means."""
    tables = []
    for place, target in enumerate(made):
        others = [each for number, each in enumerate(made) if number != place]
        tables.append(attack(target, others, images, labels))
    rows: Rows = []
    for found in zip(*tables, strict=True):
        row: dict[str, object] = {"model": found[0]["model"], "members": found[0]["members"]}
        for key in ("loss", "likelihood ratio", "right on others"):
            row[key] = fmean(float(str(each[key])) for each in found)
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all attacks, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--smoke", action="store_true", help="drawn images, little of everything")
    parser.add_argument("--to", type=Path, help="also write the figures into this file")
    asked = parser.parse_args(arguments)
    data = None if asked.smoke else Path(os.environ["POLYCLINIC_DATA"])
    size, began = SMOKE if asked.smoke else Size(), time.monotonic()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels = read_images(data, 2 * PATIENTS * size.hospitals)
    inverted, seen = run_inversion(images, labels, size)
    imprinted, taken = run_imprint(images, size)
    members = run_membership(images, labels, size)
    asked.folder.mkdir(parents=True, exist_ok=True)
    found = {
        "machine": machine(),
        "seconds": time.monotonic() - began,
        "noise": {f"{each:g}": noise_for(each).noise for each in EPSILONS},
        "inversion": inverted,
        "imprint": imprinted,
        "membership": members,
    }
    for path in filter(None, (asked.folder / "attacks.json", asked.to)):
        path.write_text(json.dumps(found, indent=1) + "\n")
    words = "SSIM 1 is the image itself. The attacker knows the labels and the number of images."
    told = "AUC 0.5 is guessing."
    bins = "An image counts as taken from SSIM 0.9 on."
    sections = [("Gradient inversion", words, inverted, seen)]
    sections += [("Imprint model", bins, imprinted, taken)]
    sections += [("Membership inference", told, members, [])]
    write_page(asked.folder / "attacks.html", sections)
    print(f"{asked.folder / 'attacks.html'}, {found['seconds']:.0f} s")


if __name__ == "__main__":
    main()
