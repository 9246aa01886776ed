"""Safetensors files read and written piece by piece, from several threads, without mapping them into memory.

A mapped file counts as memory of the process for as long as it is open: with four models of a gigabyte each, that is what a merge
would be measured by. The layout (8 bytes of header length, a JSON header, the tensors) is that of
https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import errno
import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from asrmerge.errors import CheckpointError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_ALIGNMENT = 8


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor is, without its values."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * self.dtype.itemsize


@dataclass(frozen=True)
class _Entry:
    code: str
    shape: tuple[int, ...]
    offset: int  # in bytes, from the start of the file


class SafetensorsReader:
    """One file, opened for reading; the object may be used from several threads."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            CheckpointError: the file is truncated or not a safetensors file.
        """
        self.path = path
        try:
            # The library checks the header, and the file's length against it; it maps nothing until a tensor is asked for.
            safe_open(path, framework="pt")
            with path.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                header = json.loads(stream.read(length))
        except (SafetensorError, OSError, ValueError, struct.error) as error:
            raise CheckpointError(
                f"{path} is truncated or not a safetensors file ({error}): copy or download it again."
            ) from error
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self._entries = {
            name: _Entry(entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
            for name, entry in header.items()
        }
        self._descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if (descriptor := getattr(self, "_descriptor", None)) is not None:
            os.close(descriptor)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        """The names of the tensors, as stored."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """From the header."""
        return self._entries[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """From the header.

        Raises:
            CheckpointError: a type that is neither float, integer nor boolean, such as an 8-bit float.
        """
        code = self._entries[name].code
        if code not in DTYPES:
            raise CheckpointError(f"{name} in {self.path} is stored as {code}: save the model in float32, float16 or bfloat16.")
        return DTYPES[code]

    def read(self, name: str) -> Tensor:
        """The whole tensor."""
        shape = self.shape(name)
        return self.read_elements(name, 0, math.prod(shape)).reshape(shape)

    def read_elements(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of the flattened tensor: [stop − start].

        Raises:
            CheckpointError: the file has become shorter since it was opened.
        """
        tensor = torch.empty(stop - start, dtype=self.dtype(name))
        if not len(tensor):
            return tensor
        view = memoryview(tensor.view(torch.uint8).numpy().data)
        offset = self._entries[name].offset + start * tensor.element_size()
        while view:
            count = os.preadv(self._descriptor, [view], offset)
            if count <= 0:
                raise CheckpointError(f"{self.path} ended inside of {name}: it changed while it was read; start again.")
            view, offset = view[count:], offset + count
        return tensor


class SafetensorsWriter:
    """One file whose tensors are known beforehand and may be written in any order, in pieces, from several threads.

    The same tensors give the same bytes. Use as a context manager.
    """

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec]) -> None:
        """Reserve the whole file.

        Raises:
            OSError: it names the file; there is no room for it, or the folder is not writable.
        """
        self._path = path
        self._specs = dict(specs)
        self._offsets: dict[str, int] = {}
        self._missing = {name: spec.elements for name, spec in specs.items()}
        self._lock = Lock()
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        position = 0
        # The widest types first, so that every tensor starts at a multiple of its element's size.
        for name in sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name)):
            spec = specs[name]
            offsets = [position, position + spec.nbytes]
            header[name] = {"dtype": _CODES[spec.dtype], "shape": list(spec.shape), "data_offsets": offsets}
            self._offsets[name] = position
            position += spec.nbytes
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        self._start = 8 + len(text)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            self._put(struct.pack("<Q", len(text)) + text, 0)
            self._reserve(self._start + position)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._descriptor)
        if kind is None and (missing := [name for name, count in self._missing.items() if count]):
            raise AssertionError(f"never written: {', '.join(sorted(missing))}")

    def write(self, name: str, tensor: Tensor, start: int = 0) -> None:
        """Put ``tensor``, in the dtype of the specification, at element ``start`` of the flattened tensor ``name``.

        Raises:
            OSError: it names the file.
        """
        spec = self._specs[name]
        assert tensor.dtype == spec.dtype and start + tensor.numel() <= spec.elements, name
        if tensor.numel():
            content = memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            self._put(content, self._start + self._offsets[name] + start * tensor.element_size())
        with self._lock:
            self._missing[name] -= tensor.numel()

    def _reserve(self, size: int) -> None:
        """A full disk shows before the work, where the file system can tell."""
        try:
            os.posix_fallocate(self._descriptor, 0, size)
        except AttributeError:  # not on every system
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise OSError(error.errno, error.strerror, str(self._path)) from error
            os.ftruncate(self._descriptor, size)

    def _put(self, content: bytes | memoryview, offset: int) -> None:
        view = memoryview(content)
        while view:
            try:
                count = os.pwrite(self._descriptor, view, offset)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self._path)) from error
            view, offset = view[count:], offset + count
