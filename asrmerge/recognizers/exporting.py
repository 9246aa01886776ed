"""A Whisper checkpoint as a folder for CTranslate2."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Literal, get_args

from asrmerge.errors import CheckpointError, ConfigError
from asrmerge.files import atomic_folder, write_text
from asrmerge.recognizers.ctranslate2_backend import DECODING_FILE, Decoding, require_ctranslate2
from asrmerge.recognizers.families.whisper import WhisperRecognizer
from asrmerge.recognizers.greedy import TokenRules
from asrmerge.recognizers.recognizer import load_recognizer

Quantization = Literal["int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16", "float16", "bfloat16", "float32"]
_AN_HOUR = 3600


def export_whisper(source: str, folder: Path, *, quantization: str = "int8", language: str | None = None) -> None:
    """Write ``source`` to ``folder`` in CTranslate2's format, with tokenizer and processor, at once or not at all.

    Args:
        source: a local folder or hub id.
        quantization: of the weights on disk.
        language: that a multilingual model is decoded in unless told otherwise.

    Raises:
        ConfigError: CTranslate2 is not installed, the quantization is unknown, or the model is no Whisper.
        CheckpointError: the checkpoint cannot be read or converted, or ``folder`` holds something else.
    """
    if quantization not in get_args(Quantization):
        raise ConfigError(f"Quantization {quantization!r} is not known; use one of: {', '.join(get_args(Quantization))}.")
    require_ctranslate2()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not (folder / "model.bin").is_file():
        raise CheckpointError(f"{folder} holds something other than an exported model and is not replaced: give another folder.")
    recognizer = load_recognizer(source, language=language)
    if not isinstance(recognizer, WhisperRecognizer):
        raise ConfigError(f"{source} is of the family {recognizer.family}; only Whisper can be exported.")
    decoding = _decoding(recognizer)
    with atomic_folder(folder) as temporary:
        try:
            converter = import_module("ctranslate2.converters").TransformersConverter(source)
            converter.convert(str(temporary), quantization=quantization, force=True)
        except (ValueError, RuntimeError, KeyError, AttributeError, NotImplementedError) as error:
            raise CheckpointError(f"CTranslate2 cannot convert {source} ({error}); see if a newer release can.") from error
        recognizer.processor.save_pretrained(temporary)
        recognizer.processor.feature_extractor.save_pretrained(temporary)
        write_text(temporary / DECODING_FILE, decoding.model_dump_json(indent=2) + "\n")


def _decoding(recognizer: WhisperRecognizer) -> Decoding:
    generation, prompt = recognizer.model.generation_config, recognizer.prompt
    positions = int(recognizer.model.config.max_target_positions)
    marker = getattr(generation, "no_timestamps_token_id", None)
    timed = [token for token in prompt if token != marker]
    return Decoding(
        prompt=prompt,
        tokens_per_second=recognizer.tokens_per_second,
        spare_tokens=recognizer.token_bound(0),
        most_tokens=recognizer.token_bound(_AN_HOUR * recognizer.sampling_rate),
        # As generate counts: the settings' length without the prompt's further tokens, inside the decoder's positions.
        long_form_tokens=min(int(generation.max_length or positions) + len(timed) - 1, positions) - len(timed),
        suppress_tokens=TokenRules.from_generation_config(generation).suppress,
        timestamp_begin=marker + 1 if marker is not None and recognizer.has_timestamps else None,
        max_initial_timestamp=getattr(generation, "max_initial_timestamp_index", None) or len(recognizer.processor.tokenizer),
    )
