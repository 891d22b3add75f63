"""Builds the library of CPU operators from the C++ beside this file.

    python -m segue.kernels.native.build        # for this processor, into the user's cache folder
    python -m segue.kernels.native.build --all  # for all of this architecture, into the package

A process that finds no build makes its own when it first needs it. Names contain a digest of
sources and flags, so an old build is never used.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
BUILT = HERE / "built"
FLAGS = ["-O3", "-std=c++17", "-fPIC", "-fopenmp", "-fvisibility=hidden"]
FLAGS += ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
_AVX512 = ["avx512f", "avx512bw", "avx512dq", "avx512vl"]
VARIANTS: dict[str, dict[str, list[str]]] = {
    # Best first, with the flags that the processor must have and the compiler may use.
    "x86_64": {
        "avx512_bf16": [*_AVX512, "avx512_bf16", "avx512vbmi", "avx2", "fma"],
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
    """This processor's flags, as Linux names them; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), ":")
    return frozenset(flags.partition(":")[2].split())


def own_variants() -> list[str]:
    """The variants that this processor can run, best first; none on an unknown architecture."""
    variants = VARIANTS.get(platform.machine(), {})
    return [name for name, needs in variants.items() if cpu_flags().issuperset(needs)]


def file_name(variant: str) -> str:
    return f"libsegue-{variant}-{_digest()}.so"


def find(variant: str) -> Path | None:
    """The built library, in the package or in the user's cache."""
    places = (folder / file_name(variant) for folder in (BUILT, cache_folder()))
    return next((path for path in places if path.is_file()), None)


def find_or_build(variant: str) -> Path:
    """Raises NoCompiler. Of processes that start together one builds, and the others wait."""
    if path := find(variant):
        return path
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return find(variant) or build(variant, folder)
    except OSError as error:
        raise NoCompiler(f"cannot build CPU operators in {folder}: {error}") from error


def build(variant: str, folder: Path) -> Path:
    """Compiles one variant into `folder`: some 15 s of processor time. Raises NoCompiler."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise NoCompiler("no C++ compiler found: install g++, or set CXX")
    logger.info("building CPU operators", extra={"variant": variant, "compiler": compiler})
    flags = [f"-m{f.replace('_', '')}" for f in VARIANTS[platform.machine()][variant]]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            objects = [Path(scratch) / f"{source.stem}.o" for source in _sources()]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for done in [
                    pool.submit(
                        _run, [compiler, *FLAGS, *flags, "-c", str(source), "-o", str(target)]
                    )
                    for source, target in zip(_sources(), objects, strict=True)
                ]:
                    done.result()
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
    parser = argparse.ArgumentParser(description="Builds the library of CPU operators.")
    parser.add_argument(
        "--all",
        action="store_true",
        help="for every processor of this architecture, into the package: for an image",
    )
    is_for_all = parser.parse_args().all
    variants = VARIANTS.get(platform.machine(), {}) if is_for_all else own_variants()[:1]
    try:
        for variant in variants:
            path = build(variant, BUILT) if is_for_all else find_or_build(variant)
            sys.stdout.write(f"{path}\n")
    except NoCompiler as error:
        sys.exit(f"{error}\nOperators run in plain PyTorch: two to three times slower")


if __name__ == "__main__":
    main()
