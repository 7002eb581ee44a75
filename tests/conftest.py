"""Shapes and types of the ground floor are checked while tests run: documentation that can fail."""

from jaxtyping import install_import_hook

install_import_hook(["polyclinic.state_dict", "polyclinic.deformation", "polyclinic.metrics"], "beartype.beartype")
