"""Wordings that count as the same: the file, and what it does to texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from asrmerge.errors import ConfigError
from asrmerge.evaluation.normalizers import normalizer
from asrmerge.evaluation.substitutions import read_substitutions, substituting

LOWERCASE = normalizer("lowercase+strip_punctuation")


def read(tmp_path: Path, text: str) -> dict[str, str]:
    file = tmp_path / "same.glm"
    file.write_text(text, encoding="utf-8")
    return read_substitutions(file, LOWERCASE)


def test_both_sides_are_normalised(tmp_path: Path) -> None:
    text = ";; a comment\n# another\nColour => color\nO.K. => okay\nuh =>\nblood pressure  => BP\n"
    assert read(tmp_path, text) == {"colour": "color", "ok": "okay", "uh": "", "blood pressure": "bp"}


def test_sclites_plain_rules_are_read(tmp_path: Path) -> None:
    text = "[GONNA] => [GOING TO] / [ ] __ [ ] ;; spoken\n[UH] => [ ] / [ ] __ [ ]\n"
    assert read(tmp_path, text) == {"gonna": "going to", "uh": ""}


def test_whole_words_are_replaced_longest_first_and_once() -> None:
    apply = substituting(LOWERCASE, {"new york": "nyc", "york": "jorvik", "nyc": "city", "a": "b", "b": "a", "uh": ""})
    assert apply("New York, York  and NYC: a b uh yorkshire") == "nyc jorvik and city b a yorkshire"
    assert substituting(LOWERCASE, {}) is LOWERCASE


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("colour color", "line 2: 'colour color' is no substitution; write 'colour => color'"),
        ("a => b => c", "is no substitution"),
        ("[A] => { [B] / [C] }", "without alternatives or conditions"),
        ("[A] => [B] / [C] __ [ ]", "without alternatives or conditions"),
        ("? => b", r"line 2: the text normaliser leaves nothing to replace in '\? => b'"),
        ("Grey => grau", "line 2: 'grey' is to become 'grau', but an earlier line makes it 'gray'"),
    ],
)
def test_unusable_lines_are_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, f"grey => gray\n{line}\n")
