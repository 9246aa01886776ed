"""Where a checkpoint lies: a local folder, or a Hugging Face hub id in the local cache or online."""

from __future__ import annotations

import re
from pathlib import Path

from asrmerge.errors import CheckpointError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_BESIDE_WEIGHTS = ["*.json", "*.txt", "*.model", "LICENSE*", "README.md", "language_model/*"]
_VARIANTS = ["*.fp32*", "*.fp16*", "*.bf16*", "*non_ema*"]  # second copies of the weights, in another precision


def locate(source: str | Path, revision: str | None = None) -> Path:
    """The local folder of ``source``; a hub id is fetched, or taken from the cache (always when ``HF_HUB_OFFLINE=1``).

    A ``Path`` is never taken for a hub id, and an existing folder goes before a hub id of the same spelling.

    Raises:
        CheckpointError: no such folder, and no such model on the hub or in its cache.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if revision is not None:
            raise CheckpointError(f"{source} is a local folder and has no revision {revision}: leave the revision out.")
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file: give the folder that holds config.json and the weights.")
    if isinstance(source, Path) or not _HUB_ID.fullmatch(source):
        raise CheckpointError(
            f"{path} does not exist: give the folder of a checkpoint, or a hub id such as openai/whisper-small."
        )
    return _fetch(source, revision)


def _fetch(identifier: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # here, because local folders need no hub

    folder = Path()
    try:
        # Pickled weights are fetched only where there is no safetensors file: most repositories hold both.
        for weights in ("model*.safetensors*", "pytorch_model*.bin*", "adapter_model*"):
            patterns = [*_BESIDE_WEIGHTS, weights]
            folder = Path(snapshot_download(identifier, revision=revision, allow_patterns=patterns, ignore_patterns=_VARIANTS))
            if next(folder.glob(weights), None) is not None:
                break
    except Exception as error:  # the hub client raises its own errors, its HTTP library's, and OSError
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{identifier} is no local folder, and the Hugging Face hub gave no such model ({type(error).__name__}: {reason}): "
            f"correct the path or the id, or, to work offline, first run `hf download {identifier}`."
        ) from error
    return folder
