"""Reading checkpoints through transformers, and writing them so that plain transformers reads them again."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from packaging.version import Version
from safetensors import SafetensorError
from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin

from asrmerge.errors import CheckpointError
from asrmerge.files import atomic_folder

# What transformers raises for files that are missing, of the wrong kind, or of the wrong shape.
_FAILURES = (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, ImportError, SafetensorError)
# Only used by SpecAugment in training, and missing from older checkpoints.
_OPTIONAL = "masked_spec_embed"


def read_config(source: str | Path) -> dict[str, Any]:
    """The contents of ``config.json`` of a local folder or hub id.

    Raises:
        CheckpointError: there is no such folder or hub id, or no ``config.json`` in it.
    """
    folder = Path(source).expanduser()
    if folder.exists() and not (folder / "config.json").is_file():
        raise CheckpointError(f"{source} has no config.json; give a folder that save_pretrained wrote.")
    if not folder.exists() and _is_path(source):
        raise CheckpointError(f"The checkpoint folder {source} does not exist.")
    try:
        config: dict[str, Any] = PretrainedConfig.get_config_dict(str(folder) if folder.exists() else str(source))[0]
    except _FAILURES as error:
        raise CheckpointError(
            f"{source} is neither a folder nor on the Hugging Face hub (or in its offline cache): {_first_line(error)}"
        ) from error
    if not config:
        raise CheckpointError(f"{source} has no config.json on the Hugging Face hub or in its offline cache.")
    return config


def load_model(kind: Any, source: str, *, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """``kind.from_pretrained`` in evaluation mode.

    Raises:
        CheckpointError: the weights are missing, corrupt, or do not fill the model.
    """
    argument = "dtype" if Version(transformers.__version__) >= Version("4.56") else "torch_dtype"
    try:
        model, report = kind.from_pretrained(source, output_loading_info=True, **{argument: dtype})
    except _FAILURES as error:
        raise CheckpointError(f"The weights of {source} cannot be loaded: {_first_line(error)}") from error
    missing = sorted(name for name in report["missing_keys"] if not name.endswith(_OPTIONAL))
    if missing:
        raise CheckpointError(f"The checkpoint {source} lacks {len(missing)} of its tensors (the first: {missing[0]}).")
    loaded: PreTrainedModel = model.to(device).eval()
    return loaded


def load_processor(kinds: Sequence[Any], source: str) -> ProcessorMixin:
    """The first of ``kinds`` that loads with both a tokenizer (with a vocabulary) and a feature extractor.

    Raises:
        CheckpointError: none does.
    """
    reason = "no tokenizer or feature extractor found"
    for kind in kinds:
        try:
            processor = kind.from_pretrained(source)
        except _FAILURES as error:
            reason = _first_line(error)
            continue
        tokenizer = getattr(processor, "tokenizer", None)
        # Some releases answer missing files with an empty tokenizer: special tokens and no vocabulary.
        empty = tokenizer is None or len(tokenizer) <= len(tokenizer.all_special_ids)
        if empty or getattr(processor, "feature_extractor", None) is None:
            reason = "its tokenizer has no vocabulary" if empty else "it has no feature extractor"
            continue
        return processor
    raise CheckpointError(
        f"{source} has no usable tokenizer and processor; copy those files there from the model it was tuned from ({reason})."
    )


def save_checkpoint(folder: Path, model: PreTrainedModel, processor: ProcessorMixin, dtype: torch.dtype | None) -> None:
    """Write model and processor to ``folder`` (replaced as a whole), the weights in ``dtype``."""
    if dtype is not None and dtype != model.dtype:
        # A copy of the module, not of its state: only so do tied weights stay tied and config.json names the right dtype.
        model = copy.deepcopy(model).to(dtype)
    if model.can_generate():
        # With this mark transformers makes the generation config anew from config.json when it loads, and forgets everything
        # that only the former knows: the token for no timestamps, the languages.
        model.generation_config._from_model_config = False
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        # transformers 5 keeps the feature extractor in processor_config.json only, where other tools do not look for it.
        processor.feature_extractor.save_pretrained(temporary)


def _is_path(source: str | Path) -> bool:
    text = str(source)
    return isinstance(source, Path) or text.startswith(("/", ".", "~")) or text.count("/") != 1


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
