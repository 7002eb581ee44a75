"""Names of labels as coded concepts with a colour: SNOMED CT where pydicom's dictionary has a name.

A name without a code keeps its words, under a coding scheme of polyclinic's own (99POLYCLINIC), as
DICOM PS3.16, 8.2 allows. The colour depends on the label's number alone.
"""

import colorsys
import re
from functools import cache

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

OWN_SCHEME = "99POLYCLINIC"
SYNONYMS = {
    "tumour": "Neoplasm",
    "tumor": "Neoplasm",
    "oedema": "Edema",
    "white blood cell": "Leukocyte",
}
ABNORMAL = ("Neoplasm", "Edema", "Necrosis", "Lesion", "Nodule", "Mass", "Cyst", "Hemorrhage")
GOLDEN = 0.618034  # of the circle of hues: neighbouring numbers get colours far apart


def code_of(name: str) -> Code:
    """Return the coded concept of a label's name."""
    keyword = _keyword(name)
    if keyword:
        found: Code = getattr(codes.SCT, keyword)
        return found
    value = re.sub(r"[^A-Z0-9]+", "-", name.upper()).strip("-")[:16] or "LABEL"
    return Code(value, OWN_SCHEME, name[:64])


def category_of(name: str) -> Code:
    """Return what kind of thing a label is: a structure of the body, or a change of one."""
    if _keyword(name).endswith(ABNORMAL):
        return Code("49755003", "SCT", "Morphologically Altered Structure")
    return Code("123037004", "SCT", "Anatomical Structure")


def known_name(text: str) -> str:
    """Return the words of the concept that a text names; empty where no concept has that name.

    What comes back are the dictionary's words, never the text's.
    """
    return " ".join(re.findall(r"[A-Z][a-z0-9]*", _keyword(text))).lower()


def colour_of(number: int) -> tuple[float, float, float]:
    """Return the colour of a label: red, green and blue from 0 to 1."""
    return colorsys.hsv_to_rgb((number * GOLDEN) % 1.0, 0.75, 0.95)


def _keyword(name: str) -> str:
    """Return the dictionary's keyword for a name; empty where it has none."""
    plain = " ".join(re.findall(r"[a-z0-9]+", name.lower()))
    synonym = SYNONYMS.get(plain)
    return synonym or _keywords().get(plain.replace(" ", ""), "")


@cache
def _keywords() -> dict[str, str]:
    return {keyword.lower(): keyword for keyword in codes.SCT.dir("")}
