"""Writing a checkpoint at once: the new folder takes the old one's place only when it is complete."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.finite import is_finite
from asrmerge.checkpoints.safetensors_file import SafetensorsWriter, TensorSpec
from asrmerge.errors import CheckpointError, ConfigError
from asrmerge.files import atomic_folder, write_json, write_text

RECIPE_FILE = "merge_recipe.yaml"
PROVENANCE_FILE = "merge_provenance.json"
MAX_SHARD_BYTES = 5_000_000_000  # as transformers

_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".ot", ".gguf", ".nemo"}
# What describes the donor's training, and not what is written.
_LEFT_OUT = {"trainer_state.json", "training.json", "learned.json", "all_results.json", "train_results.json", "eval_results.json"}
_LANGUAGE_MODEL = "language_model"  # the folder that transformers' CTC processors with an n-gram model keep


class CheckpointWriter:
    """Where the tensors of a checkpoint go, in any order and in pieces, from several threads."""

    def __init__(self, folder: Path, shards: Sequence[Mapping[str, TensorSpec]], stack: ExitStack) -> None:
        self._specs = {name: spec for shard in shards for name, spec in shard.items()}
        self._folder = folder
        self._files: dict[str, SafetensorsWriter] = {}
        for number, shard in enumerate(shards, start=1):
            writer = stack.enter_context(SafetensorsWriter(folder / _shard_name(number, len(shards)), shard))
            self._files |= dict.fromkeys(shard, writer)

    def write(self, name: str, tensor: Tensor, start: int = 0) -> None:
        """Put ``tensor``, in the dtype of the specification, at element ``start`` of the flattened tensor ``name``.

        Raises:
            CheckpointError: a value leaves the range of the dtype.
        """
        dtype = self._specs[name].dtype
        stored = tensor.detach().to("cpu", dtype)
        if not is_finite(stored):
            raise CheckpointError(
                f"{name} is NaN or Inf as {dtype}, so nothing was written: use smaller weights or a base stored in float32."
            )
        self._files[name].write(name, stored, start)

    def add_text(self, name: str, text: str) -> None:
        """Put a text file beside the weights."""
        write_text(self._folder / name, text)


@contextmanager
def checkpoint_writer(
    folder: Path,
    specs: Mapping[str, TensorSpec],
    *,
    donor: Path,
    extra_files: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Iterator[CheckpointWriter]:
    """A checkpoint of the tensors ``specs``, with everything beside the weights from the folder ``donor``.

    It takes the place of ``folder`` when the block ends well; ``folder`` stays as it was on any failure. ``extra_files``
    (name → text) go before the donor's files of the same name, and so does ``config`` before its config.json.

    Raises:
        CheckpointError: ``folder`` holds something other than a checkpoint, there is no room for it, or a value leaves the range
            of its dtype.
    """
    check_replaceable(folder)
    shards = _plan_shards(specs, max_shard_bytes)
    size = sum(spec.nbytes for spec in specs.values())
    with room_for(folder, size), atomic_folder(folder) as temporary:
        _copy_beside_weights(donor, temporary)
        with ExitStack() as stack:
            yield CheckpointWriter(temporary, shards, stack)
        if len(shards) > 1:
            write_json(temporary / "model.safetensors.index.json", _index(shards))
        if config is not None:
            write_json(temporary / "config.json", dict(config))
        for name, text in (extra_files or {}).items():
            write_text(temporary / name, text)


def write_checkpoint(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    donor: Checkpoint,
    extra_files: Mapping[str, str] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write ``tensors``, one at a time, which are those of ``donor`` by name, shape and dtype; see :func:`checkpoint_writer`.

    Raises:
        CheckpointError: ``folder`` holds something other than a checkpoint, or a value leaves the range of its dtype.
    """
    specs = {name: TensorSpec(donor.dtype(name), donor.shape(name)) for name in donor.names}
    with checkpoint_writer(folder, specs, donor=donor.folder, extra_files=extra_files, max_shard_bytes=max_shard_bytes) as writer:
        for name, tensor in tensors:
            writer.write(name, tensor)


def check_output(folder: Path, inputs: Iterable[Path]) -> None:
    """Check that replacing ``folder`` would not remove one of the folders that are read.

    Raises:
        ConfigError: it is one of them, or holds one.
    """
    for source in inputs:
        if folder.resolve() in (source.resolve(), *source.resolve().parents):
            raise ConfigError(f"{folder} is or holds the input {source} and would be replaced: give another output folder.")


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder holds a full model."""
    return (folder / "config.json").is_file()


def check_replaceable(folder: Path, is_one: Callable[[Path], bool] = is_checkpoint, kind: str = "a checkpoint") -> None:
    """Check that ``folder`` can be written anew: it is not there, empty, or of the kind that is written.

    Raises:
        CheckpointError: it is something else.
    """
    if folder.resolve().is_mount():
        raise CheckpointError(f"{folder} is where a disk is mounted and can't be replaced: give a folder inside of it.")
    if folder.is_dir():
        if any(folder.iterdir()) and not is_one(folder):
            raise CheckpointError(f"{folder} holds something other than {kind} and is not replaced: give another folder.")
    elif folder.exists():
        raise CheckpointError(f"{folder} is a file and is not replaced: give the folder to write to.")


@contextmanager
def room_for(folder: Path, size: int) -> Iterator[None]:
    """Write ``size`` bytes of weights to ``folder`` inside of the block.

    Raises:
        CheckpointError: there is no room for them.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(folder.parent).free
        raise CheckpointError(
            f"there is no room for {folder}, so nothing was written: its weights take {_megabytes(size)} and {folder.parent} has "
            f"{_megabytes(free)} free; make room, or give a folder on another disk."
        ) from error


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


def _copy_beside_weights(source: Path, target: Path) -> None:
    left_out = _LEFT_OUT | {RECIPE_FILE, PROVENANCE_FILE}
    for path in sorted(source.iterdir()):
        is_index = path.name.endswith(".index.json")
        if path.is_file():
            if not (path.name.startswith(".") or path.suffix in _WEIGHT_SUFFIXES or is_index or path.name.lower() in left_out):
                shutil.copyfile(path, target / path.name)  # follows the hub cache's links
        elif path.name == _LANGUAGE_MODEL:
            shutil.copytree(path, target / path.name, copy_function=shutil.copyfile)


def _plan_shards(specs: Mapping[str, TensorSpec], max_shard_bytes: int) -> list[dict[str, TensorSpec]]:
    """The tensors in the order of their names, none but one larger than a shard by itself over ``max_shard_bytes``."""
    shards: list[dict[str, TensorSpec]] = [{}]
    size = 0
    for name in sorted(specs):
        if shards[-1] and size + specs[name].nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = specs[name]
        size += specs[name].nbytes
    return shards


def _shard_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _index(shards: Sequence[Mapping[str, TensorSpec]]) -> dict[str, Any]:
    files = {name: _shard_name(number, len(shards)) for number, shard in enumerate(shards, start=1) for name in shard}
    total = sum(spec.nbytes for shard in shards for spec in shard.values())
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
