"""Sums so far, on disk now and then, so that a killed collection goes on where it was."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrmerge.checkpoints.safetensors_file import SafetensorsReader
from asrmerge.errors import CheckpointError
from asrmerge.merging.artefact import write_tensors
from asrmerge.statistics.collectors import Collector

PARTIAL_FILE = ".partial.safetensors"
_SHARE = 0.05  # of the time that writing may take
_KEY = "partial"


@dataclass
class Partial:
    """The file, for one collection.

    Attributes:
        key: changes with everything that the sums hang on.
        seconds: between writes, at least; 0: every time.
    """

    folder: Path
    key: str
    seconds: float
    _written: float = field(default_factory=lambda: time.monotonic())
    _cost: float = 0.0

    def read(self, collectors: Sequence[Collector], device: torch.device) -> dict[str, Any] | None:
        """Put the sums back into the collectors, and return what was written beside them; None if there is nothing to go on."""
        if not self._path.is_file():
            return None
        try:
            file = SafetensorsReader(self._path)
            content = json.loads(file.metadata[_KEY])
        except (CheckpointError, KeyError, ValueError):
            return None
        if content.get("key") != self.key:
            return None
        by_kind = {collector.kind: collector for collector in collectors}
        for name in file.names():
            kind, _, part = name.partition("/")
            _put(by_kind[kind].sums, part, file.read(name).to(device))  # type: ignore[index]
        tally: dict[str, Any] = content["tally"]
        return tally

    def write_sometimes(self, collectors: Sequence[Collector], tally: Mapping[str, Any]) -> None:
        """Write, unless that was done not long ago."""
        now = time.monotonic()
        if not self.seconds or now - self._written >= max(self.seconds, self._cost / _SHARE):
            self.write(collectors, tally)
            self._written = time.monotonic()
            self._cost = self._written - now

    def write(self, collectors: Sequence[Collector], tally: Mapping[str, Any]) -> None:
        """Write sums and ``tally`` (plain values), atomically."""
        tensors = {f"{one.kind}/{name}": value.cpu().contiguous() for one in collectors for name, value in one.sums.items()}
        write_tensors(self._path, tensors, {_KEY: json.dumps({"key": self.key, "tally": dict(tally)})})

    def remove(self) -> None:
        """The collection is finished: neither the file is needed nor what processes that were killed left half written."""
        self._path.unlink(missing_ok=True)
        for left in self.folder.glob(f".{PARTIAL_FILE}.*"):
            shutil.rmtree(left, ignore_errors=True)

    @property
    def _path(self) -> Path:
        return self.folder / PARTIAL_FILE


def _put(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    if name in sums:
        with torch.no_grad():
            sums[name].copy_(value)
    else:
        sums[name] = value
