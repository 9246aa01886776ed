"""Models as recipes name them: a folder, a hub id, or ``model@revision+adapter``."""

from __future__ import annotations

from pathlib import Path

from asrmerge.checkpoints.checkpoint import Checkpoint


def open_model(source: str) -> Checkpoint:
    """Open a folder, a hub id, or one of them with a LoRA adapter: ``model[@revision][+adapter[@revision]]``.

    A folder whose name holds ``@`` or ``+`` goes before that reading.

    Raises:
        CheckpointError: missing, incomplete or corrupt.
    """
    if Path(source).expanduser().is_dir():
        return Checkpoint.open(source)
    model, _, adapter = source.partition("+")
    checkpoint = Checkpoint.open(*_split(model))
    if not adapter:
        return checkpoint
    from asrmerge.adapters.materialise import open_adapted  # here, because adapters are built on merging's own blocks

    path, revision = _split(adapter)
    return open_adapted(path, checkpoint, revision)


def _split(reference: str) -> tuple[str, str | None]:
    path, _, revision = reference.partition("@")
    return path, revision or None
