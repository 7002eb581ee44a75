"""Shapes and types of the ground floor are checked while tests run: documentation that can fail."""

from jaxtyping import install_import_hook

GROUND = ("augmentation", "deformation", "foreground", "metrics", "state_dict", "statistics")
SHAPED = [
    *(f"polyclinic.{name}" for name in GROUND),
    "polyclinic_strategies.refinement.gaussian_head",
]
install_import_hook(SHAPED, "beartype.beartype")
