"""Writing a checkpoint at once: the new folder takes the old one's place only when it is complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.errors import CheckpointError
from asrmerge.files import atomic_folder, write_text

RECIPE_FILE = "merge_recipe.yaml"
PROVENANCE_FILE = "merge_provenance.json"

_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".ot", ".gguf", ".nemo"}
# What describes the donor and not what is written: its card, its training, its own making.
_LEFT_OUT = {"readme.md", "trainer_state.json", "all_results.json", "train_results.json", "eval_results.json"}
_LANGUAGE_MODEL = "language_model"  # the folder that transformers' CTC processors with an n-gram model keep


def write_checkpoint(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    donor: Checkpoint,
    extra_files: Mapping[str, str] | None = None,
    max_shard_bytes: int = 2_000_000_000,
) -> None:
    """Write ``tensors`` and, from ``donor``, everything beside the weights; ``folder`` stays as it was on any failure.

    Each tensor gets the donor's dtype of that name; names that the donor lacks keep theirs. No more than one shard is held
    in memory. ``extra_files`` (name → text) go before the donor's files of the same name.

    Raises:
        CheckpointError: ``folder`` holds something other than a checkpoint, or a value leaves the range of its dtype.
    """
    _check_replaceable(folder)
    extra = extra_files or {}
    with atomic_folder(folder) as temporary:
        _copy_beside_weights(donor.folder, temporary)
        _write_weights(temporary, tensors, donor, max_shard_bytes)
        for name, text in extra.items():
            write_text(temporary / name, text)


def _check_replaceable(folder: Path) -> None:
    if folder.is_dir():
        if any(folder.iterdir()) and not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder} holds something other than a checkpoint and is not replaced: give another folder.")
    elif folder.exists():
        raise CheckpointError(f"{folder} is a file and is not replaced: give the folder to write to.")


def _copy_beside_weights(source: Path, target: Path) -> None:
    left_out = _LEFT_OUT | {RECIPE_FILE, PROVENANCE_FILE}
    for path in sorted(source.iterdir()):
        is_index = path.name.endswith(".index.json")
        if path.is_file():
            if not (path.name.startswith(".") or path.suffix in _WEIGHT_SUFFIXES or is_index or path.name.lower() in left_out):
                shutil.copyfile(path, target / path.name)  # follows the hub cache's links
        elif path.name == _LANGUAGE_MODEL:
            shutil.copytree(path, target / path.name, copy_function=shutil.copyfile)


def _write_weights(folder: Path, tensors: Iterable[tuple[str, Tensor]], donor: Checkpoint, max_shard_bytes: int) -> None:
    known = set(donor.names)
    shards: list[tuple[Path, list[str]]] = []  # how many there will be shows only at the end, so they are named then
    shard: dict[str, Tensor] = {}
    shard_bytes = total_bytes = 0

    def flush() -> None:
        path = folder / f"shard-{len(shards)}.safetensors"
        save_file(shard, path, metadata={"format": "pt"})
        shards.append((path, list(shard)))
        shard.clear()

    for name, tensor in tensors:
        stored = _as_stored(name, tensor, donor.dtype(name) if name in known else tensor.dtype)
        if shard and shard_bytes + stored.nbytes > max_shard_bytes:
            flush()
            shard_bytes = 0
        shard[name] = stored
        shard_bytes += stored.nbytes
        total_bytes += stored.nbytes
    if shard or not shards:
        flush()
    _name_shards(folder, shards, total_bytes)


def _name_shards(folder: Path, shards: list[tuple[Path, list[str]]], total_bytes: int) -> None:
    if len(shards) == 1:
        shards[0][0].rename(folder / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, (path, names) in enumerate(shards, start=1):
        final = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        path.rename(folder / final)
        weight_map |= dict.fromkeys(names, final)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2, sort_keys=True) + "\n")


def _as_stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    stored = tensor.detach().to("cpu", dtype).contiguous()
    if stored.is_floating_point() and not bool(torch.isfinite(stored).all()):
        raise CheckpointError(
            f"{name} is NaN or Inf as {dtype}, so nothing was written: use smaller weights or a base stored in float32."
        )
    return stored
