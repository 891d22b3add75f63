"""Recognises models that cannot be served: other formats, adapters, quantised weights.

After the error "no config.json" a user looks for that file; after "a GGUF file" the user knows what
to download instead. File names are enough, so a hub repository is checked before a download.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from segue.api.errors import InvalidCheckpoint
from segue.model.checkpoint.typed_json import read_object
from segue.model.weights.quantization import unsupported

_SERVE_INSTEAD = "serve the safetensors release it was made from (bfloat16 or float32)"
_CONVERT = (
    "load it with transformers and call save_pretrained(FOLDER), which writes safetensors, or "
    "serve a release that has them"
)
_FOREIGN = {
    # File name endings: what such a file is, and what to do.
    (".gguf",): ("weights in GGUF, llama.cpp's format", _SERVE_INSTEAD),
    (".bin", ".pt", ".pth", ".ckpt"): ("weights as PyTorch pickles", _CONVERT),
    (".h5", ".msgpack", ".onnx", ".npz", ".mlmodel", ".engine", ".tflite"): (
        "weights in another framework's format",
        _SERVE_INSTEAD,
    ),
}
_ADAPTER = "adapter_config.json"
_QUANTISED_BY = {
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
}
"""Files in which tools record the quantisation, if config.json does not."""

_LFS_HEAD = b"version https://git-lfs"


def refuse_file(path: Path) -> None:
    """Raises InvalidCheckpoint for a file in place of a folder."""
    if path.suffix == ".safetensors":
        raise InvalidCheckpoint(
            f"{path} is one file of a model: give its folder, {path.parent}, with config.json and "
            "tokenizer.json beside it"
        )
    foreign = _foreign([path.name])
    if foreign is None and _head(path).startswith(b"GGUF"):
        foreign = _FOREIGN[".gguf",]
    if foreign is not None:
        what, advice = foreign
        raise InvalidCheckpoint(f"{path} is a file with {what}: {advice}")
    raise InvalidCheckpoint(
        f"{path} is a file: give the folder of a model (config.json, tokenizer.json, *.safetensors)"
    )


def refuse_foreign(names: Collection[str], where: str, *, base_model: str = "") -> None:
    """Raises InvalidCheckpoint if the files of `where`, a folder or a repository, are known not to
    be a model in the format of transformers.
    """
    if not names:
        raise InvalidCheckpoint(
            f"{where} is empty: a model is config.json, tokenizer.json and *.safetensors"
        )
    if _ADAPTER in names and not any(_is_weights(name) for name in names):
        base = f" of {base_model}" if base_model else ""
        raise InvalidCheckpoint(
            f"{where} is an adapter (LoRA){base}, not a model: merge it into its base "
            "(peft: merge_and_unload, then save_pretrained) and serve the result"
        )
    if not any(_is_weights(name) for name in names) and (foreign := _foreign(names)):
        what, advice = foreign
        raise InvalidCheckpoint(f"{where} has {what} and no safetensors: {advice}")


def refuse_foreign_folder(folder: Path) -> None:
    """As `refuse_foreign`, for a folder on this machine."""
    adapter, base_model = folder / _ADAPTER, ""
    if adapter.is_file():
        base_model = str(read_object(adapter).get("base_model_name_or_path") or "")
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    refuse_foreign(names, str(folder), base_model=base_model)
    if "config.json" not in names:
        # One level too high: a folder of several models, or the hub's cache.
        inner = sorted(folder.glob("*/config.json")) or sorted(folder.glob("*/*/config.json"))
        if inner:
            raise InvalidCheckpoint(
                f"{folder} has no config.json, but a folder in it has: give {inner[0].parent}"
            )


def refuse_quantised(names: Iterable[str]) -> None:
    """Raises InvalidCheckpoint if one of a model's files records a quantisation that is not served.
    Others are recorded in config.json."""
    for name in names:
        if name in _QUANTISED_BY:
            raise InvalidCheckpoint(unsupported(f"{_QUANTISED_BY[name]}, according to {name}"))


def refuse_lfs_pointer(path: Path) -> None:
    """Raises InvalidCheckpoint for a text file that Git left in place of a large file."""
    if _head(path).startswith(_LFS_HEAD):
        raise InvalidCheckpoint(
            f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder"
        )


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors") and not name.startswith("adapter_")


def _foreign(names: Iterable[str]) -> tuple[str, str] | None:
    # Trainers write these next to any model.
    of_model = [n for n in names if n not in ("training_args.bin", "optimizer.pt", "scheduler.pt")]
    for endings, found in _FOREIGN.items():
        if any(name.lower().endswith(endings) for name in of_model):
            return found
    return None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)
