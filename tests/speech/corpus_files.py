"""Small audio files for corpora."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from asrmerge.speech.audio import write_audio


def audio(path: Path, seconds: float = 0.5) -> Path:
    """A tone of ``seconds`` at ``path``."""
    write_audio(path, 0.1 * np.sin(np.arange(int(seconds * 16_000)) / 10))
    return path


def text(path: Path, *lines: str) -> Path:
    """A file of ``lines``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
