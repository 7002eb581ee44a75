"""What all tests share.

Shapes and types of the ground floor are checked while tests run: documentation that can fail.
"""

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

allow_targets(  # classes that no file of conf/ names, and tests train with
    "monai.transforms.ScaleIntensityd",
    "torch.nn.MSELoss",
    "torch.optim.Adam",
    "torch.optim.SGD",
)
