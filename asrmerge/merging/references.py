"""Models as users name them: a folder, a hub id, ``model@revision+adapter`` or ``embedded:name``."""

from __future__ import annotations

from pathlib import Path

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.content import resolve_model


def open_model(source: str) -> Checkpoint:
    """Open a folder, a hub id or a shipped base, or one of them with a LoRA adapter: ``model[@revision][+adapter[@revision]]``.

    A shipped base is written ``embedded:name``. A folder whose name holds ``@`` or ``+`` goes before that reading.

    Raises:
        ConfigError: no such shipped base.
        CheckpointError: missing, incomplete or corrupt.
    """
    if Path(source).expanduser().is_dir():
        return Checkpoint.open(source)
    model, _, adapter = source.partition("+")
    path, revision = split_revision(model)
    checkpoint = Checkpoint.open(resolve_model(path), revision)
    if not adapter:
        return checkpoint
    from asrmerge.adapters.materialise import open_adapted  # here, because adapters are built on merging's own blocks

    path, revision = split_revision(adapter)
    return open_adapted(path, checkpoint, revision)


def split_revision(reference: str) -> tuple[str, str | None]:
    """``path@revision`` apart; without a revision, None."""
    path, _, revision = reference.partition("@")
    return path, revision or None
