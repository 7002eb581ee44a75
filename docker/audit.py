"""Look for advisories about what the images install: `python docker/audit.py PIP-AUDIT`.

Exit status: 0 none is known; 1 there are some, and they are listed; 3 no advisory database could
be reached, so that nothing is known; 2 anything else.
"""

import json
import subprocess
import sys
from pathlib import Path

FILES = ("server", "torch", "demo")  # a hospital's are among the coordinator's
FOUND, FAILED, UNREACHED = 1, 2, 3
SIGNS = ("connection", "timed out", "timeout", "resolve", "proxy", "ssl", "http")


def main(program: str) -> int:
    """Say what is known, and return the exit status."""
    paths = [Path("docker") / f"requirements-{name}.txt" for name in FILES]
    options = [word for path in paths for word in ("--requirement", str(path))]
    fixed = ("--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json")
    done = subprocess.run([program, *fixed, *options], capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        return _failed(done.stderr)
    for package in packages:
        for one in package.get("vulns", []):
            fixes = ", ".join(one["fix_versions"]) or "no version yet"
            name = f"{package['name']} {package['version']}"
            sys.stdout.write(f"{name}: {one['id']}, mended by {fixes}\n")
    skipped = [package["skip_reason"] for package in packages if "skip_reason" in package]
    if len(skipped) == len(packages):  # an index that knows the packages, and no advisories
        return _failed("no connection to a database that knows these packages")
    known = [package for package in packages if package.get("vulns")]
    sys.stdout.write(
        f"{len(packages) - len(skipped)} packages audited, {len(known)} with advisories; "
        f"{len(skipped)} not in the database\n"
    )
    return FOUND if known else 0


def _failed(told: str) -> int:
    last = (told.strip().splitlines() or ["it said nothing"])[-1]
    if any(sign in told.lower() for sign in SIGNS):
        sys.stderr.write(
            "No advisory database can be reached from here: what the images install was not "
            f"audited ({last[:120]}).\n"
        )
        return UNREACHED
    sys.stderr.write(f"pip-audit failed: {last}\n")
    return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
