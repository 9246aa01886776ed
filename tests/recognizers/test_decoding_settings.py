"""What transcripts depend on is recorded, as JSON, and changes where the decoding does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from asrmerge.evaluation.decoding import DecodingRecord, describe
from asrmerge.recognizers import load_recognizer
from asrmerge.recognizers.families.ctc import CtcRecognizer

Make = Callable[..., Path]


def test_whisper(make_whisper: Make) -> None:
    settings = load_recognizer(make_whisper(multilingual=True, timestamps=True), language="german").decoding_settings()
    generation = settings.generation
    assert (settings.family, settings.device, settings.precision, settings.dtype) == ("whisper", "cpu", "float32", "float32")
    assert (generation["search"], generation["language"], generation["task"]) == ("greedy", "de", "transcribe")
    assert generation["prompt"] == ["<|startoftranscript|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>"]
    assert generation["begin_suppress_tokens"] == [220, 256] and {97, 129, 257} <= set(generation["suppress_tokens"])
    assert (generation["end_tokens"], generation["most_tokens"], generation["window_seconds"]) == ([256], 36, 1.0)
    assert generation["beyond_the_window"] == "long-form generation"
    english = load_recognizer(make_whisper(seed=1), precision="bfloat16").decoding_settings()
    assert (english.precision, english.generation["decoder_precision"], english.dtype) == ("bfloat16", "float32", "float32")
    assert english.generation["language"] is None and english.generation["beyond_the_window"] == "cut at pauses"


@pytest.mark.parametrize(("mask", "equal"), [(True, False), (False, True)])
def test_ctc(make_ctc: Make, mask: bool, equal: bool) -> None:
    recognizer = load_recognizer(make_ctc(mask=mask))
    assert isinstance(recognizer, CtcRecognizer)
    settings = replace(recognizer, chunk_seconds=12.0).decoding_settings()
    expected = {
        "search": "best path", "blank": 0, "chunk_seconds": 12.0, "stride_seconds": 5.0, "equal_lengths_in_a_batch": equal
    }  # fmt: skip
    assert (settings.family, settings.generation) == ("ctc", expected)


def test_the_record_holds_all_of_it(make_whisper: Make, make_ctc: Make, tmp_path: Path) -> None:
    for folder in (make_whisper(), make_ctc()):
        settings = load_recognizer(folder).decoding_settings()
        record = describe(settings, model="m", batch_seconds=30.0)
        record.write(tmp_path / "record.json")
        stored = json.loads((tmp_path / "record.json").read_text())
        assert stored["generation"] == settings.generation and stored["threads"] >= 1
        assert DecodingRecord.read(tmp_path / "record.json") == record
        faster = describe(replace(settings, precision="bfloat16"), model="m", batch_seconds=30.0)
        assert record.continues(record.plus(utterances=1, failed=0, audio_seconds=2.0, processing_seconds=1.0))
        assert not record.continues(faster)
