"""Shapes and types of the ground floor are checked while tests run: documentation that can fail."""

from jaxtyping import install_import_hook

SHAPED = ["polyclinic.augmentation", "polyclinic.deformation", "polyclinic.metrics", "polyclinic.state_dict", "polyclinic.statistics"]
install_import_hook(SHAPED, "beartype.beartype")
