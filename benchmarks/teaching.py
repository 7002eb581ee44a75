"""Hospitals with different tasks, their teachers and students in one process, for `universal.py`.

They use the project's own functions, but are no simulation of `strategy=universal`: the arms that
are compared share the teachers of the first stage, some have teachers that no hospital would be
(random or hostile ones), and the recorded figures rest on these seeds of batches and heads.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pulse import pulse, say
from torch import Tensor

from polyclinic.config.compose import instantiate, load_config
from polyclinic.imaging.datasets import read_dataset
from polyclinic.imaging.subjects import number_subjects
from polyclinic.learning.fine_tuning import Course, fit_passes
from polyclinic.learning.loading.samples import training_loader
from polyclinic.learning.optimizing.schedules import cosine, scale_rate, set_rate
from polyclinic.learning.preparation import (
    PreparedCases,
    PreparedSite,
    Sample,
    prepare,
)
from polyclinic.learning.site_tasks import declare_task, site_data
from polyclinic.learning.state_dict import StateDict, load_state, save_state
from polyclinic.learning.training import evaluate, infer
from polyclinic_strategies.universal.distillation import Distillation, Distilled, distil
from polyclinic_strategies.universal.images.unlabelled import find_images, read_images
from polyclinic_strategies.universal.networks.network import ENCODER, UniversalNetwork
from polyclinic_strategies.universal.networks.probing import probe
from polyclinic_strategies.universal.networks.task_loss import TaskLoss
from polyclinic_strategies.universal.pretraining import OnStep, Pretraining, pretrain
from polyclinic_strategies.universal.teaching.teachers import Teacher, feature_statistics

SETTINGS = ("model=universal", "data=universal", "training=universal")
OWN, STATISTICS = "own/", "statistics/"  # prefixes of a kept teacher's other tensors
SEEDS = 10  # largest number of the benchmark's seeds, so that no two stages have the same


@dataclass(frozen=True)
class Stages:
    """Stages of an arm.

    Attributes:
        passes: Number of passes over the labels in each.
        falling: Whether the learning rate falls from stage to stage too, along a cosine.
        like, shared: Name of another arm, and number of its first stages that are these as well.
    """

    passes: tuple[int, ...]
    falling: bool = False
    like: str = ""
    shared: int = 0

    @property
    def number(self) -> int:
        """Number of stages."""
        return len(self.passes)

    def share(self, stage: int) -> float:
        """Return the share of the highest learning rate with which a stage begins."""
        if not self.falling:
            return 1.0
        done = sum(self.passes[: stage - 1]) / sum(self.passes)
        return cosine(done)

    def owner(self, name: str, stage: int) -> str:
        """Return the arm under whose name a stage is kept."""
        return self.like if stage <= self.shared else name


# the encoder before a stage, its teachers, its number
Combine = Callable[[StateDict, Sequence[Teacher], int], StateDict]


@dataclass(frozen=True)
class Outcome:
    """Result of a model on one test case.

    It is the class and the guess, or the Dice of each foreground class.
    """

    truth: int | None
    guess: int | None
    dice: tuple[float, ...] = ()


class Hospital:
    """Data of one task.

    Args:
        folder: Folder with dataset.json.
        overrides: Hydra's overrides.
    """

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        self.name = folder.name
        self.config = load_config([*SETTINGS, *overrides])
        self.dataset = read_dataset(folder)
        self.task = declare_task(self.dataset)
        self.data = site_data(self.config.data, self.dataset)
        self.prepared = prepare(self.dataset, self.data)
        self.test = PreparedCases(self.dataset.test, self.data, math.inf, lambda: None)

    def network(self, encoder: StateDict, seed: int) -> UniversalNetwork:
        """Return an encoder with a new head."""
        network = build(self.config.model)
        network.load_state_dict(encoder)
        torch.manual_seed(seed)
        network.attach_head(self.task)
        return network

    def probe(
        self, encoder: StateDict, labels: int | None = None
    ) -> tuple[UniversalNetwork, float]:
        """Train a linear head on an encoder; return it and its validation score.

        Args:
            encoder: The encoder.
            labels: Largest number of training cases, balanced between classes as far as possible;
                None for all.
        """
        network = self.network(encoder, 0)
        return network, probe(network, self.prepared if labels is None else self._few(labels))

    def _few(self, labels: int) -> PreparedSite:
        """Return the first cases of every class in turn."""
        seen: Counter[object] = Counter()
        turns = []
        for case in self.dataset.training:
            kind = case.label if isinstance(case.label, int) else None
            turns.append((seen[kind], case))
            seen[kind] += 1
        cases = [case for _, case in sorted(turns, key=lambda turn: turn[0])][:labels]
        return replace(
            self.prepared, training=PreparedCases(cases, self.data, math.inf, lambda: None)
        )

    def tune(
        self,
        encoder: StateDict,
        seed: int,
        head: StateDict | None = None,
        passes: int = 0,
        share: float = 1.0,
    ) -> UniversalNetwork:
        """Train encoder and head on the labels.

        Args:
            encoder: The encoder.
            seed: Seed of a new head and of the passes.
            head: Head of the stage before; None for a new one.
            passes: Number of passes; 0 for the configured ones.
            share: Share of the configured learning rate.
        """
        network, training = self.network(encoder, seed), self.config.training
        network.load_state_dict({**network.state_dict(), **(head or {})})
        training = scale_rate(training, share)
        fit_passes(
            network,
            self.prepared,
            training,
            Course(passes or training.epochs, lambda number: seed * 1000 + number, falling=True),
            on_step=pulse(f"{self.name} trains"),
        )
        return network

    def as_teacher(self, name: str, network: UniversalNetwork) -> Teacher:
        """Return a network's encoder, with statistics of this hospital's images."""
        statistics = feature_statistics(
            network,
            (sample.image for sample in self.prepared.training),
            number_subjects(self.dataset.training),
            self.data,
            self.config.privacy["release"],
        )
        return Teacher(
            name, shared(network), statistics, len(self.dataset.training), str(self.task)
        )

    def test_subjects(self) -> list[str]:
        """Return the subject of every test case; cases without one are their own."""
        return [case.subject or case.name for case in self.dataset.test]

    def outcomes(self, network: UniversalNetwork) -> list[Outcome]:
        """Return the outcome of every test case."""
        network.eval()
        with torch.inference_mode():
            return [self._outcome(network, sample) for sample in self.test]

    def _outcome(self, network: UniversalNetwork, sample: Sample) -> Outcome:
        if isinstance(sample.label, int):
            return Outcome(sample.label, int(infer(network, sample.image, self.data).argmax()))
        scores = evaluate(network, [sample], self.data).scores
        return Outcome(None, None, tuple(scores.values()))


class Laboratory:
    """A coordinator's images, hospitals, and their encoders; finished ones are kept in `folder`.

    Args:
        hospitals, held_out, public: Folders of a task cohort.
        folder: Folder of encoders.
        seed: Seed of networks, batches and views.
        overrides: Hydra's overrides.
    """

    def __init__(
        self,
        hospitals: Sequence[Path],
        held_out: Sequence[Path],
        public: Path,
        folder: Path,
        seed: int,
        overrides: Sequence[str],
    ) -> None:
        self.hospitals = [Hospital(path, overrides) for path in hospitals]
        self.held_out = [Hospital(path, overrides) for path in held_out]
        self.config = self.hospitals[0].config
        self.images = read_images(
            find_images(public),
            replace(self.config.data, task="classification", labels=("any", "other")),
        )
        self.folder, self.seed = folder, seed

    def kept(self, name: str, make: Callable[[], StateDict]) -> StateDict:
        """Return an encoder, made only once."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            say(f"seed {self.seed}: making the encoder '{name}'")
            save_state(make(), path, {})
        return load_state(path)[0]

    def scratch(self, seed: int | None = None) -> StateDict:
        """Return a new encoder."""
        torch.manual_seed(self.seed if seed is None else seed)
        return shared(build(self.config.model))

    def masked(self, steps: int) -> StateDict:
        """Return the encoder from masked image modelling on the public images."""
        network = build(self.config.model)
        network.load_state_dict(self.scratch())
        told = pulse("masked image modelling")
        pretrain(network, self.images, Pretraining(steps), self.seed, on_step=told)
        return shared(network)

    def staged(
        self, name: str, base: StateDict, stages: Stages, combine: Combine, until: int = 0
    ) -> StateDict:
        """Return the encoder after some stages.

        In each stage, everybody trains the newest encoder, with the head of the stage before.

        Args:
            name: Name under which everything is kept.
            base: The encoder before the first stage.
            stages: The stages.
            combine: Makes the next encoder.
            until: Number of the last stage; 0: all of them.
        """
        for stage in range(1, (until or stages.number) + 1):

            def make(before: StateDict = base, stage: int = stage) -> StateDict:
                return combine(before, self.teachers(before, name, stage, stages), stage)

            base = self.kept(f"{stages.owner(name, stage)}, stage {stage}", make)
        return base

    def teachers(
        self, base: StateDict, name: str, stage: int, stages: Stages, only: str = ""
    ) -> list[Teacher]:
        """Return everybody's encoder after a stage, or one hospital's."""
        return [
            self._teacher(hospital, base, name, stage, stages)
            for hospital in self.hospitals
            if only in ("", hospital.name)
        ]

    def _teacher(
        self, hospital: Hospital, base: StateDict, name: str, stage: int, stages: Stages
    ) -> Teacher:
        place = self._place(hospital, name, stage, stages)
        if not place.exists():
            earlier = self._place(hospital, name, stage - 1, stages)
            kept = load_state(earlier)[0] if stage > 1 else {}
            head = {
                name.removeprefix(OWN): tensor
                for name, tensor in kept.items()
                if name.startswith(OWN)
            }
            seed, share = self.seed + SEEDS * (stage - 1), stages.share(stage)
            network = hospital.tune(base, seed, head, stages.passes[stage - 1], share)
            teacher = hospital.as_teacher(hospital.name, network)
            parts = {STATISTICS: teacher.statistics, OWN: own_part(network)}
            named = {
                prefix + name: tensor
                for prefix, part in parts.items()
                for name, tensor in part.items()
            }
            save_state({**teacher.encoder, **named}, place, {})
        state = load_state(place)[0]
        encoder = {name: tensor for name, tensor in state.items() if name.startswith(ENCODER)}
        statistics = {
            name.removeprefix(STATISTICS): value
            for name, value in state.items()
            if name.startswith(STATISTICS)
        }
        return Teacher(
            hospital.name, encoder, statistics, len(hospital.dataset.training), str(hospital.task)
        )

    def _place(self, hospital: Hospital, name: str, stage: int, stages: Stages) -> Path:
        """Return where a stage is kept; the first one of as many passes is the same for all."""
        return (
            self.folder
            / "teachers"
            / (
                f"{stages.owner(name, stage)}, stage {stage}"
                if stage > 1
                else f"stage 1 of {stages.passes[0]}"
            )
            / f"{hospital.name}.safetensors"
        )

    def hostile(self, base: StateDict, teachers: Sequence[Teacher]) -> list[Teacher]:
        """Return three more teachers, all described truthfully.

        They are random weights, a task vector with its sign turned, and an encoder with its signs
        turned.
        """
        first, second = self.hospitals[0], self.hospitals[1]
        random, flipped = build(self.config.model), build(self.config.model)
        random.load_state_dict(self.scratch(self.seed + 1000))
        flipped.load_state_dict(
            {name: 2 * base[name] - tensor for name, tensor in teachers[1].encoder.items()}
        )
        turned = build(self.config.model)
        turned.load_state_dict({name: -tensor for name, tensor in teachers[1].encoder.items()})
        return [
            first.as_teacher("random", random),
            second.as_teacher("flipped vector", flipped),
            second.as_teacher("flipped encoder", turned),
        ]

    def strangers(self, stage: int) -> list[Teacher]:
        """Return as many teachers as there are, each with random weights."""
        found = []
        for number, hospital in enumerate(self.hospitals):
            network = build(self.config.model)
            network.load_state_dict(self.scratch(self.seed + 1000 * (1 + stage) + number))
            found.append(hospital.as_teacher(hospital.name, network))
        return found

    def distil(
        self, base: StateDict, teachers: Sequence[Teacher], settings: Distillation, stage: int
    ) -> Distilled:
        """Return the student of these teachers."""
        network = build(self.config.model)
        network.load_state_dict(base)
        return distil(
            network,
            teachers,
            self.images,
            settings,
            self.seed + stage,
            on_step=pulse(f"stage {stage}, distilling"),
        )

    def pooled(self, base: StateDict, passes: int) -> StateDict:
        """Train one encoder and every head on all tasks in one place."""
        networks = [hospital.network(base, self.seed) for hospital in self.hospitals]
        for network in networks[1:]:
            network.encoder = networks[0].encoder
        training = replace(self.config.training, epochs=1)
        heads = [
            parameter
            for network in networks
            for name, parameter in network.named_parameters()
            if not name.startswith(ENCODER)
        ]
        optimizer = instantiate(training.optimizer, _partial_=True)(
            [*networks[0].encoder.parameters(), *heads]
        )
        loss_of = TaskLoss()
        for number in range(1, passes + 1):
            set_rate(optimizer, training.learning_rate, number, passes + 1)
            told = pulse(f"all tasks in one place, pass {number} of {passes}")
            self._pass(networks, optimizer, loss_of, self.seed * 1000 + number, told)
        return shared(networks[0])

    def _pass(
        self,
        networks: Sequence[UniversalNetwork],
        optimizer: Any,
        loss_of: TaskLoss,
        seed: int,
        told: OnStep,
    ) -> None:
        """Train on batches of all tasks in random order."""
        training = replace(self.config.training, epochs=1)
        loaders = [
            iter(training_loader(hospital.prepared, training, seed)) for hospital in self.hospitals
        ]
        lengths = [
            math.ceil(len(hospital.dataset.training) / training.batch_size)
            for hospital in self.hospitals
        ]
        turns = torch.tensor(
            [number for number, length in enumerate(lengths) for _ in range(length)]
        )
        order = torch.randperm(len(turns), generator=torch.Generator().manual_seed(seed))
        for step, number in enumerate(turns[order].tolist(), start=1):
            batch = next(loaders[number])
            networks[number].train()
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(networks[number](batch["image"]), batch["label"])
            loss.backward()
            optimizer.step()
            told(step, len(turns), loss.item())


def build(model: Mapping[str, Any]) -> UniversalNetwork:
    """Make a network without a head, in a memory layout for speed."""
    network: UniversalNetwork = instantiate(model)
    laid_out: UniversalNetwork = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return laid_out


def shared(network: UniversalNetwork) -> StateDict:
    """Return the part that is sent."""
    return {
        name: tensor.detach().clone().contiguous()
        for name, tensor in network.state_dict().items()
        if name.startswith(ENCODER)
    }


def own_part(network: UniversalNetwork) -> StateDict:
    """Return the part that stays at the hospital."""
    return {
        name: tensor.detach().clone().contiguous()
        for name, tensor in network.state_dict().items()
        if not name.startswith(ENCODER)
    }


def mean_of(teachers: Sequence[Teacher]) -> StateDict:
    """Return the average of encoders."""
    names: list[str] = list(teachers[0].encoder)
    return {
        name: torch.stack([teacher.encoder[name] for teacher in teachers]).mean(0) for name in names
    }


def score(outcomes: Sequence[Outcome]) -> float:
    """Return the balanced accuracy, or the mean Dice.

    The latter is the mean over classes of the mean over cases in which a class occurs.
    """
    if outcomes[0].truth is None:
        table = torch.tensor([outcome.dice for outcome in outcomes])
        return float(table.nanmean(0).nanmean())
    truths = torch.tensor([outcome.truth for outcome in outcomes])
    right: Tensor = (truths == torch.tensor([outcome.guess for outcome in outcomes])).float()
    return float(
        torch.stack(
            [right[truths == value].mean() for value in sorted(set(truths.tolist()))]
        ).mean()
    )
