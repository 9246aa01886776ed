"""Loading whatever transcribes: a checkpoint of any family, or an exported model."""

from __future__ import annotations

import re
from typing import Any

import torch

from asrmerge.errors import ConfigError
from asrmerge.recognizers.ctranslate2_backend import CTranslate2Whisper, is_ctranslate2, load_ctranslate2
from asrmerge.recognizers.feature_cache import FeatureCache
from asrmerge.recognizers.recognizer import Recognizer, load_recognizer


def load_transcriber(
    source: str,
    *,
    device: str = "auto",
    precision: str | None = None,
    language: str | None = None,
    feature_cache: FeatureCache | None = None,
) -> Recognizer | CTranslate2Whisper:
    """Load ``source``: a local folder, exported for CTranslate2 or not, or a hub id.

    Args:
        device: ``auto`` (a GPU that CUDA knows, else the CPU), ``cpu``, ``mps``, ``cuda`` or ``cuda:N``.
        precision: ``float32`` (the default) or ``bfloat16``; of an exported model, one of CTranslate2's compute types.
        language: of multilingual Whisper models.
        feature_cache: as ``load_recognizer`` has it; an exported model computes its features anew.

    Raises:
        CheckpointError: there is no usable model.
        ConfigError: the device, precision or language is not known or cannot be used.
    """
    device = find_device(device)
    if is_ctranslate2(source):
        return load_ctranslate2(source, device=device, precision=precision, language=language)
    chosen: Any = precision or "float32"  # load_recognizer refuses what it does not know
    return load_recognizer(source, device=device, precision=chosen, language=language, feature_cache=feature_cache)


def find_device(name: str) -> str:
    """The device of that name; ``auto`` is a GPU that CUDA knows, else the CPU.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ConfigError(f"There is no device '{name}'; use auto, cpu, mps, cuda or cuda:N.")
    number = int(name.partition(":")[2] or 0)
    if name.startswith("cuda") and number >= torch.cuda.device_count():
        raise ConfigError(f"Device {name}: torch sees {torch.cuda.device_count()} CUDA devices; use another, or cpu.")
    return name
