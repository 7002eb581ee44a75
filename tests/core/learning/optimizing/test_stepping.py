"""Steps: several sizes, precision, clipping, FedProx, and moments that go on."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.schemas import TrainingConfig
from polyclinic.learning import modes, training
from polyclinic.learning.losses import SegmentationLoss, judge
from polyclinic.learning.optimizing.moments import Moments
from polyclinic.learning.optimizing.schedules import Round
from polyclinic.learning.optimizing.stepping import Stepper

CONFIG = load_config(
    ["data=planned_2d", "model=dynunet", "training=nnunet", "data.patch=[32,32]",
     "model.features=4", "training.steps=3", "data.labels=[background,a,b]"]
)  # fmt: skip
PLAIN = CONFIG.training
SGD = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}


def network() -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = instantiate(CONFIG.model)
    return made.train()


def loader(seed: int = 0, count: int = 6) -> torch.utils.data.DataLoader[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    samples = [
        {
            "image": torch.randn(1, 32, 32, generator=generator),
            "label": torch.randint(3, (1, 32, 32), generator=generator),
        }
        for _ in range(count)
    ]
    return torch.utils.data.DataLoader(samples, 2, generator=generator)  # type: ignore[arg-type]


def train(settings: TrainingConfig, mu: float = 0.0) -> dict[str, Tensor]:
    trained = network()
    stepper = Stepper(trained, settings, proximal_mu=mu)
    training.fit(trained, loader(), settings, CONFIG.data, stepper=stepper)
    return {name: value.clone() for name, value in trained.state_dict().items()}


def alike(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_smaller_size_weighs_half_as_much() -> None:
    label = torch.randint(3, (2, 1, 8, 8))
    sizes = [torch.randn(2, 3, size, size) for size in (8, 4, 2)]
    loss = SegmentationLoss()
    single = [loss(sizes[0], label), *(
        loss(each, label[:, :, start::step, start::step])
        for each, step, start in zip(sizes[1:], (2, 4), (1, 2), strict=True)
    )]  # fmt: skip
    expected = (single[0] + single[1] / 2 + single[2] / 4) / 1.75
    assert_close(loss(sizes, label), expected)
    assert_close(judge(loss, sizes, label), expected)
    assert_close(judge(loss, sizes[:1], label), single[0])


@pytest.mark.parametrize("name", ["nnunet", "default"])
def test_every_head_is_trained_by_every_loss(name: str) -> None:
    loss = load_config([f"training={name}"]).training.loss
    after = train(replace(PLAIN, loss=loss))
    before = network().state_dict()
    heads = [key for key in before if "deep_supervision" in key]
    assert heads and not any(torch.equal(before[key], after[key]) for key in heads)
    found = training.evaluate(network(), [], CONFIG.data)
    assert found.num_examples == 0


def test_steps_go_round_the_loader() -> None:
    steps: list[int] = []
    trained = network()
    result = training.fit(
        trained, loader(), replace(PLAIN, steps=7), CONFIG.data,
        on_step=lambda step, steps_, loss: steps.append(step * 100 + steps_),
    )  # fmt: skip
    assert result.steps == 7 and steps == [100 * step + 7 for step in range(1, 8)]


def test_gradients_are_clipped_after_the_proximal_term() -> None:
    """One step of SGD with rate 1 moves the weights by the clipped length, exactly."""
    once = replace(PLAIN, steps=2, schedule="constant", precision="float32")
    slow = {"_target_": "torch.optim.SGD", "lr": 1e-3}
    for mu in (0.0, 1e6):
        trained = network()
        before = torch.cat([each.detach().flatten() for each in trained.parameters()])
        optimizer = instantiate(slow, params=list(trained.parameters()))
        stepper = Stepper(trained, replace(once, clip=0.5), optimizer, mu)
        lengths = []
        for batch in list(loader())[:2]:
            stepper.step(batch["image"], batch["label"])
            after = torch.cat([each.detach().flatten() for each in trained.parameters()])
            lengths.append(float((after - before).norm()))
            before = after
        assert lengths[0] == pytest.approx(0.5e-3, rel=1e-3)
        assert lengths[1] == pytest.approx(0.5e-3, rel=1e-3)


@pytest.mark.parametrize("mu", [0.0, 0.1])
@pytest.mark.parametrize("precision", ["bfloat16", "auto"])
def test_fast_precision_trains_nearly_the_same(precision: Any, mu: float) -> None:
    exact = replace(PLAIN, precision="float32", clip=1.0, schedule="constant")
    first = train(exact, mu)
    second = train(replace(exact, precision=precision), mu)
    start = network().state_dict()
    assert {each.dtype for each in second.values()} == {torch.float32}
    moved, apart = (
        torch.cat([(value - other[name]).flatten() for name, value in first.items()]).norm()
        for other in (start, second)
    )
    assert apart < 0.25 * moved
    again = train(replace(exact, precision=precision), mu)
    assert alike(second, again)


def test_the_type_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for able, there, elsewhere in (
        (True, torch.bfloat16, torch.bfloat16),
        (False, torch.float32, torch.float16),
    ):
        monkeypatch.setattr(modes, "_multiplies_bf16", lambda _, able=able: able)
        assert modes.find_dtype(cpu, "auto") == there == modes.find_dtype(cpu, "float16")
        assert modes.find_dtype(gpu, "auto") == elsewhere
        assert modes.find_dtype(gpu, "float16") == torch.float16
        assert modes.find_dtype(cpu, "float32") == torch.float32


def rounds(settings: TrainingConfig, folder: Path, numbers: Sequence[int]) -> nn.Module:
    """Train as a hospital does whose weights come back unchanged; a new optimizer each round."""
    trained = network()
    for number in numbers:
        stepper, moments = Stepper(trained, settings), Moments(folder, number)
        moments.take_up(stepper)
        place = Round(number, max(numbers))
        training.fit(trained, loader(number), settings, CONFIG.data, stepper=stepper, place=place)
        moments.keep(stepper)
    return trained


def test_moments_go_on_from_round_to_round(tmp_path: Path) -> None:
    """Three rounds with kept moments are one optimizer's; files of two rounds remain."""
    settings = replace(PLAIN, optimizer=SGD, precision="float32")
    kept = rounds(settings, tmp_path, [1, 2, 3])
    expected = network()
    stepper = Stepper(expected, settings)
    for number in (1, 2, 3):
        training.fit(
            expected, loader(number), settings, CONFIG.data,
            stepper=stepper, place=Round(number, 3),
        )  # fmt: skip
    assert alike(kept.state_dict(), expected.state_dict())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moments-2.pt", "moments-3.pt"]
    assert (tmp_path / "moments-3.pt").stat().st_mode & 0o077 == 0


def test_the_scale_of_losses_goes_on(tmp_path: Path) -> None:
    """What halved the scale in one round is not met again in the next."""
    trained = torch.nn.Linear(1, 1)
    steppers = [Stepper(trained, replace(PLAIN, optimizer=SGD)) for _ in range(3)]
    for stepper in steppers[:2]:  # as of float16, which a GPU has
        stepper.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    first, again, exact = steppers
    loss = trained(torch.tensor([math.inf])).sum()
    first.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    first.scaler.step(first.optimizer)
    first.scaler.update()
    Moments(tmp_path, 1).keep(first)
    Moments(tmp_path, 2).take_up(again)
    assert again.scaler.get_scale() == first.scaler.get_scale() == 512.0
    Moments(tmp_path, 2).take_up(exact)  # float32 takes moments alone


def test_a_round_that_is_asked_for_again_starts_the_same(tmp_path: Path) -> None:
    settings = replace(PLAIN, optimizer=SGD, precision="float32")
    trained = [rounds(settings, tmp_path, [1, 2]) for _ in range(2)]  # the second overwrites
    assert alike(trained[0].state_dict(), trained[1].state_dict())
    before = torch.load(tmp_path / "moments-1.pt")
    stepper = Stepper(network(), settings)
    Moments(tmp_path, 2).take_up(stepper)
    assert torch.equal(
        stepper.optimizer.state_dict()["state"][0]["momentum_buffer"],
        before["optimizer"]["state"][0]["momentum_buffer"],
    )


@pytest.mark.parametrize("content", [b"", b"no file of torch's", None])
def test_moments_that_do_not_fit_count_as_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "moments-1.pt"
    if content is None:
        other = torch.nn.Linear(2, 2)
        optimizer = torch.optim.SGD(other.parameters(), 0.1, 0.9)
        other(torch.ones(2)).sum().backward()
        optimizer.step()
        torch.save({"optimizer": optimizer.state_dict(), "scaler": {}}, path)
    else:
        path.write_bytes(content)
    stepper = Stepper(network(), replace(PLAIN, optimizer=SGD))
    Moments(tmp_path, 2).take_up(stepper)
    assert not stepper.optimizer.state


class Ramp(nn.Module):
    """Logits that depend on the place in the patch, as of a network that errs at one side."""

    def forward(self, image: Tensor) -> Tensor:
        ramp = torch.linspace(0, 1, image.shape[2]).view(-1, *(1,) * (image.ndim - 3))
        return torch.cat([image * 0 + ramp, image], 1)


@pytest.mark.parametrize(("labels", "mean"), [("[background,a]", 0.5), ("[left,right]", None)])
def test_mirrored_inference_is_the_mean_over_the_allowed_axes(labels: str, mean: Any) -> None:
    data = load_config(
        ["data=planned", f"data.labels={labels}", "data.patch=[8,8,8]",
         "data.mirrored_inference=true"]
    ).data  # fmt: skip
    volume = torch.randn(1, 8, 8, 8)
    plain = training.infer(Ramp(), volume, data)
    found = training.infer(Ramp(), volume, data, mirrored=True)
    assert_close(found[1], volume[0])
    assert_close(found[0], torch.full((8, 8, 8), mean) if mean else plain[0])


def test_a_volume_smaller_than_the_patch_is_padded() -> None:
    data = load_config(["data=planned", "data.patch=[16,16,16]", "data.overlap=0.5"]).data
    volume = torch.randn(1, 5, 20, 16)
    assert_close(training.infer(Ramp(), volume, data)[1], volume[0])
