"""An attacker who has the generator and draws keys (white box).

From proxies of people that it knows, by keys that it drew, it learns to read the key off a proxy.
It reads the key of a proxy that was sent, warps every original by that key, and compares. It also
compares the proxy with proxies of each original by keys of its own, averaged.
"""

import torch
from torch import Tensor

from polyclinic.learning.modes import bf16_autocast, channels_last
from polyclinic_strategies.proxy.attacks.contest import Contest, Found, averaged, between_visits
from polyclinic_strategies.proxy.attacks.registrations import (
    BATCH,
    fit_flow,
    predict_velocity,
)
from polyclinic_strategies.proxy.attacks.siamese import train_siamese
from polyclinic_strategies.proxy.attacks.verification import likenesses
from polyclinic_strategies.proxy.generator import Field, Shape, draw_keys, warp_coarsely
from polyclinic_strategies.proxy.networks.flow_generator import FlowGenerator

FORMAT = torch.channels_last_3d


class WhiteBox:
    """Simulate what the generator would make of every original."""

    def __call__(self, contest: Contest) -> Found:
        """Yield results, see `Attacker`; none without a generator."""
        if contest.field is None:
            return
        test, training = contest.test, contest.training
        describe = train_siamese(training.proxies, training.proxies, contest.settings)
        drawn = _own_proxies(contest.field, test.originals, test.proxies.shape[2])
        one = test.proxies[:, :, :1]
        likeness = between_visits(one, averaged(describe), drawn)
        yield "white box, keys drawn for each original", likeness
        reader = _train_reader(contest.field, contest)
        visits = range(test.visits)
        with torch.inference_mode():
            found = [
                _simulate(contest, reader, probe, gallery)
                for probe in visits
                for gallery in visits
                if probe != gallery
            ]
        yield "white box, key read off the proxy", torch.stack(found)


def _simulate(contest: Contest, reader: FlowGenerator, probe: int, gallery: int) -> Tensor:
    """Return likenesses of proxies and of what their keys make of originals: (people, people).

    What all originals become by a key says nothing of a person, so it is taken off first.
    """
    assert contest.field is not None
    originals = contest.test.originals[:, gallery, None].float()
    rows = []
    for proxy in contest.test.proxies[:, probe, 0].float():
        key = predict_velocity(reader, proxy[None, None], contest.atlas)
        made = _proxies(contest.field, originals, key.expand(len(originals), -1, -1, -1, -1))
        middle = made.mean(0, keepdim=True)
        rest = (proxy[None] - middle).flatten(1)
        rows.append(likenesses(rest, (made - middle).flatten(1))[0])
    return torch.stack(rows)


def _own_proxies(field: Field, originals: Tensor, keys: int) -> Tensor:
    """Make proxies of originals (people, visits, h, w, d): (people, visits, keys, h, w, d)."""
    height, width, depth = originals.shape[2:]
    half: Shape = (height // 2, width // 2, depth // 2)
    random = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    made = []
    with torch.inference_mode():
        for person in originals.float():
            every = person[:, None].repeat_interleave(keys, 0)
            found = _proxies(field, every, draw_keys(len(every), half, random))
            made.append(found.view(len(person), keys, *found.shape[1:]).half())
    return torch.stack(made)


def _proxies(field: Field, originals: Tensor, keys: Tensor) -> Tensor:
    """Warp originals (B, 1, h, w, d) by keys: (B, h, w, d)."""
    with bf16_autocast(originals.device):
        velocity = field(originals.to(memory_format=FORMAT), keys)
    return warp_coarsely(originals, velocity.float())[:, 0]


def _train_reader(field: Field, contest: Contest) -> FlowGenerator:
    """Train a network that reads the key off a proxy."""
    network = channels_last(FlowGenerator(bound=8.0))
    images = contest.training.originals.flatten(0, 1)
    height, width, depth = images.shape[1:]
    half: Shape = (height // 2, width // 2, depth // 2)
    random = torch.Generator().manual_seed(int(torch.randint(2**31, ())))

    def loss() -> Tensor:
        batch = images[torch.randint(len(images), (BATCH,))][:, None].float()
        keys = draw_keys(BATCH, half, random)
        with torch.no_grad():
            proxies = _proxies(field, batch, keys)[:, None]
        return (predict_velocity(network, proxies, contest.atlas) - keys).square().mean()

    return fit_flow(network, contest.settings.registration_steps, loss)
