"""Loaded speech recognisers behind one protocol, one file per family of models in ``families``."""

from asrmerge.recognizers.recognizer import (
    CachingRecognizer,
    DecodingSettings,
    Precision,
    Recognizer,
    load_recognizer,
    model_families,
)

__all__ = ["CachingRecognizer", "DecodingSettings", "Precision", "Recognizer", "load_recognizer", "model_families"]
