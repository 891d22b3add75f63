"""Builds the library of CPU operators from the C++ beside this file.

    python -m segue.kernels.native.build    # for any processor of this architecture, into the package

Without that, a process builds what its own processor needs when it first needs it, into the user's
cache folder. Names contain a digest of sources and flags, so an old build is never used.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
BUILT = HERE / "built"
FLAGS = (
    "-O3 -std=c++17 -fPIC -fopenmp -fvisibility=hidden "
    "-ffp-contract=fast -fno-math-errno -fno-trapping-math"
).split()
_AVX512 = "avx512f avx512bw avx512dq avx512vl".split()
VARIANTS: dict[str, dict[str, list[str]]] = {
    # Best first. What the processor must have is also what the compiler may use.
    "x86_64": {
        "avx512_bf16": [*_AVX512, "avx512_bf16", "avx2", "fma"],
        "avx512": [*_AVX512, "avx2", "fma"],
        "avx2": ["avx2", "fma"],
        "sse2": [],
    },
    "aarch64": {"neon": []},
}


class NoCompiler(RuntimeError):
    """There is no C++ compiler, or it failed."""


@lru_cache
def cpu_flags() -> frozenset[str]:
    """What this processor can do, in the kernel's words; nothing on other systems than Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), ":")
    return frozenset(flags.partition(":")[2].split())


def own_variant() -> str | None:
    """The best variant that this processor can run; None on an unknown architecture."""
    variants = VARIANTS.get(platform.machine(), {})
    return next((name for name, needs in variants.items() if cpu_flags().issuperset(needs)), None)


def file_name(variant: str) -> str:
    return f"libsegue-{variant}-{_digest()}.so"


def find(variant: str) -> Path | None:
    """The built library, in the package or in the user's cache."""
    places = (folder / file_name(variant) for folder in (BUILT, cache_folder()))
    return next((path for path in places if path.is_file()), None)


def find_or_build(variant: str) -> Path:
    """Raises NoCompiler."""
    return find(variant) or build(variant, cache_folder())


def build(variant: str, folder: Path) -> Path:
    """Compiles one variant into `folder`: some 15 s of one core. Raises NoCompiler."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise NoCompiler("no C++ compiler found: install g++, or set CXX")
    logger.info("building CPU operators", extra={"variant": variant, "compiler": compiler})
    flags = [f"-m{f.replace('_', '')}" for f in VARIANTS[platform.machine()][variant]]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            objects = [Path(scratch) / f"{source.stem}.o" for source in _sources()]
            for source, target in zip(_sources(), objects, strict=True):
                _run([compiler, *FLAGS, *flags, "-c", str(source), "-o", str(target)])
            library = Path(scratch) / "library.so"
            _run([compiler, "-shared", *map(str, objects), _openmp(), "-o", str(library)])
            # Processes may build at the same time: each puts a whole file in place.
            return library.replace(folder / file_name(variant))
    except OSError as error:
        raise NoCompiler(f"cannot build CPU operators in {folder}: {error}") from error


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoCompiler(f"{command[0]} failed with {done.returncode}: {done.stderr[-2000:]}")


def _openmp() -> str:
    """PyTorch's own OpenMP: with two in one process, each would keep its own threads busy."""
    own = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return str(own[0]) if own else "-lgomp"


def _sources() -> list[Path]:
    return sorted(HERE.glob("*.cpp"))


@lru_cache
def _digest() -> str:
    digest = hashlib.sha256(" ".join([*FLAGS, torch.__version__]).encode())
    for path in sorted([*HERE.glob("*.cpp"), *HERE.glob("*.h")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "segue" / "native"


def main() -> None:
    for variant in VARIANTS.get(platform.machine(), {}):
        print(find(variant) or build(variant, BUILT))


if __name__ == "__main__":
    main()
