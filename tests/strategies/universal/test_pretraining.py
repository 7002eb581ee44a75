"""Masked image modelling: what is hidden, what is painted, what is learned, interruptions."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from polyclinic.errors import ConfigError
from polyclinic.learning.optimizing.schedules import set_rate
from polyclinic_strategies.universal.networks.encoders import ConvolutionalEncoder, VitEncoder
from polyclinic_strategies.universal.networks.network import UniversalNetwork
from polyclinic_strategies.universal.pretraining import (
    Painter,
    Pretraining,
    finite,
    hide,
    masked_loss,
    pretrain,
)

SMALL = Pretraining(steps=6, batch_size=4, learning_rate=0.003, mask_size=4)


def network(seed: int = 0, dims: int = 2, channels: int = 3) -> UniversalNetwork:
    torch.manual_seed(seed)
    return UniversalNetwork(ConvolutionalEncoder(dims, channels, [16] * dims, [8, 16]))


def pictures(count: int = 12) -> Tensor:
    """Smooth waves, which can be guessed from their surroundings."""
    rng = torch.Generator().manual_seed(0)
    grid = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij"))
    phases = 6 * torch.rand(count, 1, 1, generator=rng)
    return torch.sin(grid[0] / 3 + phases)[:, None].expand(-1, 3, -1, -1).contiguous()


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.6])
@pytest.mark.parametrize("size", [(16, 16), (16, 8, 8)])
def test_of_every_image_the_same_share_of_squares_is_hidden(
    ratio: float, size: tuple[int, ...]
) -> None:
    settings = Pretraining(mask_ratio=ratio, mask_size=4)
    hidden = hide(5, size, settings, torch.Generator().manual_seed(0))
    squares = math.prod(length // 4 for length in size)
    assert hidden.shape == (5, 1, *size) and hidden.dtype == torch.bool
    assert hidden.flatten(1).sum(1).tolist() == [round(ratio * squares) * 4 ** len(size)] * 5
    corners = hidden[(slice(None), slice(None), *(slice(None, None, 4) for _ in size))]
    for axis in range(2, corners.ndim):
        corners = corners.repeat_interleave(4, axis)
    assert torch.equal(corners, hidden)  # whole squares
    assert not torch.equal(hidden[0], hidden[1])


def test_squares_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="must divide"):
        hide(1, (16, 16), Pretraining(mask_size=5), torch.Generator())


@pytest.mark.parametrize(
    "one",
    [
        network(),
        network(dims=3, channels=1),
        UniversalNetwork(VitEncoder(2, 3, [16, 16], 8, 16, 2, 2)),
    ],
)
def test_the_painter_paints_an_image_of_the_same_shape(one: UniversalNetwork) -> None:
    image = torch.rand(2, one.encoder.in_channels, *one.encoder.size)
    hidden = hide(2, one.encoder.size, SMALL, torch.Generator().manual_seed(0))
    painted = Painter(one)(one, image, hidden)
    assert painted.shape == image.shape and painted.dtype == torch.float32


def test_the_painter_puts_its_numbers_where_the_map_s_place_is() -> None:
    one = network(channels=1)
    painter = Painter(one)
    with torch.no_grad():
        painter.paint.weight.zero_()
        painter.paint.bias.copy_(torch.arange(16.0))  # one place of the last map paints 4 x 4
    painted = painter(one, torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16, dtype=torch.bool))
    assert_close(painted[0, 0], torch.arange(16.0).view(4, 4).repeat(4, 4))


def test_what_is_hidden_is_not_seen_and_alone_counts() -> None:
    one = network().eval()
    painter = Painter(one)
    hidden = hide(1, (16, 16), SMALL, torch.Generator().manual_seed(0))
    image = pictures(1)
    other = torch.where(hidden, torch.rand_like(image), image)
    with torch.no_grad():
        painted = painter(one, image, hidden)
        assert torch.equal(painted, painter(one, other, hidden))
        wanted = (painted - image).abs()[hidden.expand_as(image)].mean()
        assert_close(masked_loss(one, painter, image, hidden), wanted)


def test_the_loss_falls() -> None:
    losses = pretrain(network(), pictures(), Pretraining(60, 8, 0.005, 0.5, 4), 0)
    assert len(losses) == 60 and sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_an_interrupted_training_is_the_same_as_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyclinic_strategies.universal.pretraining.KEEP_EVERY", 2)
    whole, broken = network(), network()
    torch.manual_seed(1)
    losses = pretrain(whole, pictures(), SMALL, 7)

    def die(step: int, _steps: int, _loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        pretrain(broken, pictures(), SMALL, 7, checkpoint=tmp_path / "c.pt", on_step=die)
    again, steps = network(seed=3), []
    found = pretrain(
        again,
        pictures(),
        SMALL,
        7,
        checkpoint=tmp_path / "c.pt",
        on_step=lambda step, *_: steps.append(step),
    )
    assert steps == [5, 6] and found == losses
    assert all(
        torch.equal(tensor, whole.state_dict()[name]) for name, tensor in again.state_dict().items()
    )


def test_a_checkpoint_of_another_training_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "c.pt").write_bytes(b"no")
    alone = pretrain(network(), pictures(), SMALL, 0, checkpoint=tmp_path / "c.pt")
    assert len(alone) == 6
    wider = UniversalNetwork(ConvolutionalEncoder(2, 3, [16] * 2, [8, 24]))
    pretrain(wider, pictures(), SMALL, 0, checkpoint=tmp_path / "c.pt")
    begun = network()
    assert pretrain(begun, pictures(), SMALL, 0, checkpoint=tmp_path / "c.pt") == alone


def test_a_loss_that_is_not_finite_is_said() -> None:
    assert finite(0.5, 1, 0.1) == 0.5
    with pytest.raises(ConfigError, match="step 3"):
        finite(math.nan, 3, 0.1)


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)

    def rate(step: int, steps: int) -> float:
        set_rate(optimizer, 2.0, step, steps)
        return float(optimizer.param_groups[0]["lr"])

    assert [rate(step, 100) for step in (1, 5, 100)] == pytest.approx([0.4, 2.0, 0.0])
    assert rate(52, 100) > rate(53, 100) > rate(54, 100)
    assert rate(1, 1) == 2.0 and [rate(step, 3) for step in (1, 2)] == pytest.approx([2.0, 1.0])
