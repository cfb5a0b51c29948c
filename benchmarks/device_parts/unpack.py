"""Unpacks wheels whose packages this Python has not: no network, and nothing that is installed is replaced.

python benchmarks/device_parts/unpack.py .device/wheels .device/site
PYTHONPATH=.device/site python -m benchmarks --suite device --out DIR
"""

import importlib.metadata
import re
import shutil
import sys
import zipfile
from pathlib import Path


def main(wheels: str, site: str) -> int:
    """Status 2 where there are no wheels."""
    found = sorted(Path(wheels).glob("*.whl"))
    if not found:
        print(f"there are no wheels in {wheels}: make them with bash launch/device_check.sh", file=sys.stderr)
        return 2
    installed = {plain(distribution.name) for distribution in importlib.metadata.distributions()}
    shutil.rmtree(site, ignore_errors=True)
    unpacked = [wheel for wheel in found if plain(wheel.name.split("-")[0]) not in installed]
    for wheel in unpacked:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    print(f"unpacked {len(unpacked)} of {len(found)} wheels into {site}; the others are installed")
    return 0


def plain(name: str) -> str:
    """A distribution's name as all its spellings are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
