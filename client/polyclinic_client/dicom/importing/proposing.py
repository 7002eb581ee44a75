"""A first series.yaml, proposed from what was found; a person confirms or edits it.

Names of channels and labels are words of this module, never a text of the files: they stand in
dataset.json, and the federation sees them. A text of the files stands in patterns alone.
"""

import glob
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from polyclinic_client.dicom.labels.codes import known_name
from polyclinic_client.dicom.mapping import UNCONFIRMED
from polyclinic_client.dicom.reading.instances import Instance
from polyclinic_client.dicom.reading.series import Series

# words of descriptions, protocols and sequences, as a channel; the first that is found
CONTRASTS = (
    ("ADC", r"\badc\b|apparent diffusion"),
    ("DWI", r"\bdwi\b|diffusion|ep2d_diff|trace"),
    ("SWI", r"\bswi\b|\bt2\*|\bt2star"),
    ("FLAIR", r"flair|\btirm\b|dark.?fluid"),
    ("T1c", r"t1.*(\+c|\bgd\b|gad|post|contrast|\bkm\b|\bce\b)"),
    ("T1", r"t1|mprage|\bspgr\b|\bbravo\b|\bmp2rage\b"),
    ("PD", r"\bpd\b|proton.density"),
    ("T2", r"t2"),
)
HEAD = """\
# What becomes what in `polyclinic-client import`. Edit this file: it is kept, and counts in every
# later import. It stays here: texts of your files stand in it.
#
# channels: in the order of the federation's channels. A series is taken for the first channel that
#   one of its `match` fits; all patterns of a match must fit; * stands for anything.
# labels: classes 1, 2, ... of the federation, from the names of segments (DICOM SEG) and regions
#   (RTSTRUCT). Where two overlap, the later one counts. Class 0 is the background.
# several: what to do where several series of a study fit one channel: leave out, or most slices.
# derived: true takes series, too, that were computed of others.
# unlabelled: true lists studies without labels as test cases; false leaves them out.
"""


def propose(name: str, series: Sequence[Series]) -> str:
    """Write the text of a series.yaml.

    Args:
        name: Of the data set.
        series: Everything that was found.
    """
    volumes = [each for each in series if is_candidate(each)]
    labels = [one for each in series for one in each.instances if one.names]
    images = [each for each in series if each.first.kind == "image"]
    channels = _channels(volumes) or _channels(images)  # a name for what is left out, and why
    tree: dict[str, Any] = {
        "name": name,
        "channels": channels or [{"name": "CT", "match": [{"modality": "CT"}]}],
        "labels": _labels(labels),
        "several": "leave out",
        "derived": False,
        "unlabelled": True,
    }
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=98)
    return f"{HEAD}{UNCONFIRMED}\n{text}{_other_groups(volumes, channels)}"


def is_candidate(series: Series) -> bool:
    """Tell whether a series is a volume that is proposed for a channel."""
    return series.stack is not None and not series.is_localizer and not series.is_derived


def guess_channel(image: Instance) -> str:
    """Guess a channel's name, a word of this module."""
    if image.modality == "CT":
        return "CT"
    if image.modality == "PT":
        return "PET"
    texts = " ".join(image.texts).casefold()
    found = next((name for name, words in CONTRASTS if re.search(words, texts)), "")
    return found or "MR"


def _channels(volumes: Sequence[Series]) -> list[dict[str, Any]]:
    """Propose the channels that most studies have, of the modality that most studies have."""
    studies: dict[str, set[str]] = defaultdict(set)
    kinds: dict[str, str] = {}
    for series in volumes:
        name = guess_channel(series.first)
        studies[name].add(series.first.study)
        kinds[name] = series.first.modality
    if not studies:
        return []
    most = max(len(found) for found in studies.values())
    order = [name for name, _ in CONTRASTS]
    kept = [name for name, found in studies.items() if 2 * len(found) > most]
    modality = Counter(dict.fromkeys(kinds.values(), 0))
    for name in kept:
        modality[kinds[name]] += len(studies[name])
    usual = modality.most_common(1)[0][0]
    kept = [name for name in kept if kinds[name] == usual]
    kept.sort(key=lambda name: (order.index(name) if name in order else -1, name))
    return [{"name": name, "match": list(_matches(name, volumes))} for name in kept]


def _matches(name: str, volumes: Iterable[Series]) -> Iterable[dict[str, str]]:
    found = Counter(
        (each.first.modality, each.first.texts[0])
        for each in volumes
        if guess_channel(each.first) == name
    )
    for (modality, description), _ in found.most_common():
        yield {"modality": modality, "description": glob.escape(description)}


def _labels(labels: Sequence[Instance]) -> list[dict[str, Any]]:
    """Propose a label for every name; those that have a code get its word."""
    count = Counter(name for one in labels for _, name in one.names)
    found: dict[str, list[str]] = {}
    for number, (name, _) in enumerate(sorted(count.items()), start=1):
        found.setdefault(known_name(name) or f"structure-{number}", []).append(glob.escape(name))
    return [{"name": name, "match": patterns} for name, patterns in found.items()]


def _other_groups(volumes: Sequence[Series], channels: Sequence[dict[str, Any]]) -> str:
    """List the volumes that no channel takes, as remarks."""
    taken = {each["name"] for each in channels}
    others = Counter(
        (each.first.modality, *each.first.texts)
        for each in volumes
        if guess_channel(each.first) not in taken
    )
    if not others:
        return ""
    lines = ["# Volumes that no channel takes:"]
    for (modality, *texts), count in others.most_common(100):
        found = dict(zip(("description", "protocol", "sequence"), texts, strict=True))
        shown = ", ".join(f"{key}: {value!r}" for key, value in found.items() if value)
        lines.append(f"#   {count} x {{modality: {modality}{', ' if shown else ''}{shown}}}")
    return "\n".join(lines) + "\n"
