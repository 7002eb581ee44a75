"""Attackers without training: align, harmonize, and compare images by several similarities.

Sharma et al. 2026, https://arxiv.org/abs/2602.10043, link scans without a skull across scanners and
years in this way. Here proxies are laid over the atlas affinely once more, because a warp may shift
and scale; their intensities are harmonized; and from people who are known, only the densities of
each similarity for the same and for different people are estimated. Where the two are equally dense
is the threshold, likeness 0.
"""

from collections.abc import Callable

import torch
from scipy.stats import gaussian_kde
from torch import Tensor
from torch.nn import functional

from polyclinic_strategies.proxy.attacks.contest import Contest, Found
from polyclinic_strategies.proxy.generator import shrink

STEPS, RATE = 30, 0.01  # of the affine alignment
BRIGHT = (0.35, 0.8)  # edges between CSF, grey and white matter in the frame's intensities
BINS = 16  # of a joint histogram
BRAIN = 0.1
LEAST = 1e-6  # density that a single value has at least
Similarity = Callable[[Tensor, Tensor], Tensor]


class Similarities:
    """Compare aligned, harmonized images by ten similarities and by all of them together."""

    def __call__(self, contest: Contest) -> Found:
        """Yield results, see `Attacker`."""
        test, training, atlas = contest.test, contest.training, contest.atlas
        asked, known = (prepare(each.proxies[:, :, 0], atlas) for each in (test, training))
        yield "similarities, proxy and proxy", _judge(known, known, asked, asked)
        before, originals = (prepare(each.originals, atlas) for each in (training, test))
        yield "similarities, proxy and original", _judge(known, before, asked, originals)


def prepare(images: Tensor, atlas: Tensor) -> Tensor:
    """Align images with the atlas and give them its histogram.

    Args:
        images: (people, visits, h, w, d).
        atlas: (1, 1, h, w, d).

    Returns:
        The same shape, float32.
    """
    flat = images.flatten(0, 1)[:, None].float()
    moved = torch.cat([align(part, atlas) for part in torch.split(flat, 32)])
    return _harmonize(moved, atlas).view(images.shape)


def align(images: Tensor, atlas: Tensor) -> Tensor:
    """Move images (B, 1, h, w, d) affinely so that they look more like the atlas.

    It minimizes the squared difference every 8 mm by Adam over twelve parameters of each.
    """
    number = len(images)
    still = torch.eye(3, 4).repeat(number, 1, 1)
    coarse, wanted = shrink(images, 2), shrink(atlas, 2).expand(number, -1, -1, -1, -1)
    with torch.inference_mode(False), torch.enable_grad():
        change = torch.zeros(number, 3, 4, requires_grad=True)
        optimizer = torch.optim.Adam([change], RATE)
        for _ in range(STEPS):
            difference = _moved(coarse, still + change) - wanted
            optimizer.zero_grad()
            difference.square().sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return _moved(images, still + change.detach())


def _moved(images: Tensor, matrices: Tensor) -> Tensor:
    points = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return functional.grid_sample(images, points, padding_mode="border", align_corners=False)


def _harmonize(images: Tensor, atlas: Tensor) -> Tensor:
    """Give the brains of images (B, 1, h, w, d) the atlas's quantiles."""
    wanted = atlas[atlas > BRAIN].sort().values
    found = []
    for image in images:
        brain, result = image > BRAIN, torch.zeros_like(image)
        ranks = image[brain].argsort().argsort().double() / max(1, int(brain.sum()) - 1)
        result[brain] = wanted[(ranks * (len(wanted) - 1)).round().long()]
        found.append(result)
    return torch.stack(found)


def _judge(known: Tensor, gallery: Tensor, asked: Tensor, among: Tensor) -> Tensor:
    """Return log ratios of densities, summed over the similarities: see `Attacker`."""
    total = torch.zeros(())
    for similarity in SIMILARITIES:
        learned, found = _pairs(similarity, known, gallery), _pairs(similarity, asked, among)
        total = total + density_ratio(learned, found)
    return total


def density_ratio(learned: Tensor, found: Tensor) -> Tensor:
    """Return log p(value | same person) - log p(value | different people) of every value.

    Args:
        learned: (comparisons, people, people), of people who are known.
        found: The same of people to be recognized.
    """
    same = torch.eye(learned.shape[1], dtype=torch.bool)
    spread = float(learned.std())
    if spread == 0:
        return torch.zeros_like(found)
    dense = []
    for chosen in (same, ~same):
        values = (learned[:, chosen].flatten() / spread).double().numpy()
        jitter = 1e-3 * torch.linspace(-1, 1, len(values)).double().numpy()
        kernel = gaussian_kde(values + jitter)
        points = (found.flatten() / spread).double().numpy()
        dense.append(torch.from_numpy(kernel(points)).clamp(min=LEAST).log())
    return (dense[0] - dense[1]).view(found.shape).float()


def _pairs(similarity: Similarity, probes: Tensor, gallery: Tensor) -> Tensor:
    """Compare every two different visits: (comparisons, people, people)."""
    visits = range(probes.shape[1])
    pairs = [(one, other) for one in visits for other in visits if one != other]
    return torch.stack([similarity(probes[:, one], gallery[:, other]) for one, other in pairs])


def _squares(one: Tensor, other: Tensor) -> Tensor:
    return -torch.cdist(one.flatten(1), other.flatten(1)).square()


def _absolute(one: Tensor, other: Tensor) -> Tensor:
    return -torch.cdist(one.flatten(1), other.flatten(1), p=1)


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    first, second = (functional.normalize(each.flatten(1), dim=1) for each in (one, other))
    return first @ second.T


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    return _cosine(*(each - each.mean((1, 2, 3), keepdim=True) for each in (one, other)))


def _ranks(one: Tensor, other: Tensor) -> Tensor:
    """Return Spearman's correlation."""
    first, second = (each.flatten(1).argsort(1).argsort(1).float() for each in (one, other))
    return _correlation(first[..., None, None], second[..., None, None])


def _local(one: Tensor, other: Tensor) -> Tensor:
    """Return the correlation of intensities that are standardized in windows of 5 voxels."""
    return _cosine(*(_standardized(each) for each in (one, other)))


def _standardized(images: Tensor) -> Tensor:
    mean, square = (_window(each) for each in (images, images.square()))
    return (images - mean) / (square - mean.square()).clamp(min=1e-4).sqrt()


def _window(images: Tensor) -> Tensor:
    pooled = functional.avg_pool3d(images[:, None], 5, 1, 2, count_include_pad=False)
    return pooled[:, 0]


def _edges(one: Tensor, other: Tensor) -> Tensor:
    """Return the correlation of the gradients' lengths."""
    steep = (
        sum(slope.square() for slope in torch.gradient(each, dim=(1, 2, 3)))
        for each in (one, other)
    )
    return _correlation(*(torch.as_tensor(each).sqrt() for each in steep))


def _overlap(one: Tensor, other: Tensor) -> Tensor:
    """Return the Dice of the bright and of the dark tissue, averaged."""
    found = []
    for low, high in ((BRIGHT[1], 2.0), (BRAIN, BRIGHT[0])):
        first, second = (
            ((each > low) & (each <= high)).flatten(1).float() for each in (one, other)
        )
        sizes = first.sum(1)[:, None] + second.sum(1)
        found.append(2 * first @ second.T / sizes.clamp(min=1))
    return torch.stack(found).mean(0)


def _information(one: Tensor, other: Tensor) -> Tensor:
    """Return the mutual information of the intensities, in nats."""
    own, theirs, joint = _entropies(one, other)
    return own + theirs - joint


def _normalized_information(one: Tensor, other: Tensor) -> Tensor:
    """Return the entropies over the joint entropy.

    Studholme et al. 1999, https://doi.org/10.1016/S0031-3203(98)00091-0.
    """
    own, theirs, joint = _entropies(one, other)
    return (own + theirs) / joint.clamp(min=1e-6)


def _entropies(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    first, second = (
        functional.one_hot((each.clamp(0, 0.999) * BINS).long().flatten(1), BINS).float()
        for each in (one, other)
    )
    number = first.shape[1]
    joint = torch.stack(
        [torch.einsum("vi,pvj->pij", image, second).flatten(1) / number for image in first]
    )
    own, theirs = (each.mean(1) for each in (first, second))
    return _entropy(own)[:, None], _entropy(theirs)[None], _entropy(joint)


def _entropy(shares: Tensor) -> Tensor:
    return -(shares * shares.clamp(min=1e-12).log()).sum(-1)


SIMILARITIES: tuple[Similarity, ...] = (
    _squares,
    _absolute,
    _cosine,
    _correlation,
    _ranks,
    _local,
    _edges,
    _overlap,
    _information,
    _normalized_information,
)
