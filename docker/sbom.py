"""Write a CycloneDX 1.6 bill of materials: `python sbom.py IMAGE VERSION FILE < inventory.json`.

It is checked against its schema before it is written.
"""

import json
import sys
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL


def python_component(name: str, version: str, license_text: str) -> Component:
    """Describe a Python package."""
    found = Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        purl=PackageURL("pypi", name=name.lower(), version=version),
    )
    found.bom_ref.value = str(found.purl)
    if license_text:
        found.licenses.add(LicenseExpression(license_text))
    return found


def debian_component(name: str, version: str, architecture: str) -> Component:
    """Describe a package of the base image."""
    purl = PackageURL("deb", "debian", name, version, {"arch": architecture})
    found = Component(name=name, version=version, type=ComponentType.LIBRARY, purl=purl)
    found.bom_ref.value = str(purl)
    return found


def main(image: str, version: str, target: Path) -> None:
    """Write the bill of materials."""
    inventory = json.load(sys.stdin)
    bom = Bom()
    bom.metadata.component = Component(name=image, version=version, type=ComponentType.CONTAINER)
    for fields in inventory["python"]:
        bom.components.add(python_component(*fields))
    for fields in inventory["debian"]:
        bom.components.add(debian_component(*fields))
    bom.components.add(
        Component(name="cpython", version=inventory["interpreter"], type=ComponentType.PLATFORM)
    )
    bom.register_dependency(bom.metadata.component, bom.components)
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    if problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"{target}: not a valid CycloneDX file: {problem}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    python, debian = len(inventory["python"]), len(inventory["debian"])
    sys.stdout.write(f"{target}: {python} Python packages, {debian} Debian packages\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
