"""What all tests share.

Shapes and types of the ground floor are checked while tests run: documentation that can fail.
"""

from collections.abc import Iterator

import pytest
from jaxtyping import install_import_hook

SHAPED = [
    "polyclinic.describing",
    "polyclinic.imaging.deformation",
    "polyclinic.imaging.foreground",
    "polyclinic.learning.augmentation",
    "polyclinic.learning.metrics",
    "polyclinic.learning.state_dict",
    "polyclinic_strategies.refinement.gaussian_head",
]
install_import_hook(SHAPED, "beartype.beartype")

from polyclinic.config.targets import allow_targets  # noqa: E402  # after the hook
from tests.plugins import Installer  # noqa: E402

allow_targets(  # classes that no file of conf/ names, and tests train with
    "monai.transforms.ScaleIntensityd",
    "torch.nn.MSELoss",
    "torch.optim.Adam",
    "torch.optim.SGD",
)


@pytest.fixture
def installer(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Installer]:
    """Install packages for the time of a test."""
    made = Installer(tmp_path_factory.mktemp("site-packages"), monkeypatch)
    yield made
    monkeypatch.undo()
    made.forget()
