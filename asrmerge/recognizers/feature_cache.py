"""Features kept on disk, for several models that share a feature extractor."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class FeatureCache:
    """A folder of features ``[bins, frames]``, one file per utterance and feature extractor, exactly as they were computed.

    Trailing frames that are all alike, as those of padding with silence are, are stored once. Several processes may share the
    folder. Whoever makes it removes it; beyond ``most_bytes`` nothing more is stored.
    """

    folder: Path
    most_bytes: int = 10 << 30

    @cached_property
    def _size(self) -> list[int]:
        """Bytes in the folder when first asked, and what was stored since."""
        return [sum(file.stat().st_size for file in self.folder.glob("*.npy")) if self.folder.is_dir() else 0]

    def key(self, samples: np.ndarray, extractor: str) -> str:
        """What samples ``[samples]`` and a feature extractor, by its configuration, are stored under."""
        digest = hashlib.sha256(extractor.encode())
        digest.update(np.ascontiguousarray(samples, dtype="<f4").tobytes())
        return digest.hexdigest()

    def read(self, key: str, frames: int) -> Tensor | None:
        """Features of ``frames`` frames; ``None`` where there are none, or their file is damaged."""
        try:
            stored = torch.from_numpy(np.load(self._file(key)))
        except (OSError, ValueError, EOFError):
            return None
        return torch.cat([stored, stored[:, -1:].expand(-1, frames - stored.shape[1])], dim=1)

    def write(self, key: str, features: Tensor) -> None:
        """Store features ``[bins, frames]``."""
        differing = torch.nonzero((features != features[:, -1:]).any(0))
        frames = int(differing[-1]) + 2 if len(differing) else 1
        stored = features[:, :frames].contiguous().numpy()
        if sum(self._size) + stored.nbytes > self.most_bytes:
            return
        self._size.append(stored.nbytes)
        self.folder.mkdir(parents=True, exist_ok=True)
        # Not fsynced: a file that a crash has torn is computed again.
        handle, temporary = tempfile.mkstemp(dir=self.folder)
        with os.fdopen(handle, "wb") as stream:
            np.save(stream, stored)
        Path(temporary).replace(self._file(key))

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.npy"
