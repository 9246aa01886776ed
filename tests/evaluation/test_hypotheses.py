"""Hypotheses: both ways, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asrmerge.errors import ManifestError
from asrmerge.evaluation.hypotheses import Hypothesis, read_hypotheses, write_hypotheses


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    hypotheses = (
        Hypothesis("a", tmp_path / "gone.wav", 1.5, "", "raw Text, as it is", "s", "legal"),
        Hypothesis("b", Path("/elsewhere/b.wav"), 2.0, "é\u2028", "", None, None),
    )
    write_hypotheses(tmp_path / "deep" / "h.jsonl", hypotheses)
    assert read_hypotheses(tmp_path / "deep" / "h.jsonl") == hypotheses


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": "b"}, "the key 'audio_filepath' is missing"),
        ({"audio_filepath": "b", "duration": 1, "text": "", "pred_text": ""}, "the key 'id' is missing; add it"),
        ({"id": "b", "audio_filepath": "b", "duration": 1, "text": ""}, "the key 'pred_text' is missing; add it"),
        ({"id": "a", "audio_filepath": "b", "duration": 1, "text": "", "pred_text": ""}, "the id 'a' is already that of line 1"),
    ],
)
def test_bad_lines_are_refused(tmp_path: Path, line: dict[str, object], message: str) -> None:
    path = tmp_path / "h.jsonl"
    good = {"id": "a", "audio_filepath": "a", "duration": 1, "text": "", "pred_text": ""}
    path.write_text(f"{json.dumps(good)}\n{json.dumps(line)}\n")
    with pytest.raises(ManifestError, match=rf"h.jsonl, line 2: {message}"):
        read_hypotheses(path)
