"""Manifests: both ways, and every refusal with file, line and remedy."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrmerge.errors import ManifestError
from asrmerge.speech.manifest import Utterance, read_manifest, write_manifest

GOOD = {"audio_filepath": "a.wav", "duration": 1.5, "text": "take two"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.wav", "b.wav", "sub/a.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def write(folder: Path, *lines: object) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_line_becomes_an_utterance(folder: Path) -> None:
    path = write(folder, {**GOOD, "id": "x", "speaker": 7, "domain": "legal", "lang": "en", "offset": 0})
    assert read_manifest(path) == (Utterance("x", folder / "a.wav", 1.5, "take two", "7", "legal", 0.0, {"lang": "en"}),)


def test_the_domain_asked_for_takes_the_place_of_the_lines_own(folder: Path) -> None:
    path = write(folder, {**GOOD, "domain": "legal"}, {**GOOD, "audio_filepath": "b.wav"})
    assert [utterance.domain for utterance in read_manifest(path, domain="medical")] == ["medical", "medical"]
    assert [utterance.domain for utterance in read_manifest(path)] == ["legal", None]


def test_absolute_audio_paths_are_kept(folder: Path) -> None:
    path = write(folder, {**GOOD, "audio_filepath": str(folder / "b.wav")})
    assert read_manifest(path)[0].audio == folder / "b.wav"


def test_identifiers_default_to_unique_stems(folder: Path) -> None:
    path = write(folder, GOOD, {**GOOD, "audio_filepath": "sub/a.wav"}, {**GOOD, "audio_filepath": "b.wav", "id": "a-2"}, GOOD)
    assert [utterance.identifier for utterance in read_manifest(path)] == ["a", "a-3", "a-2", "a-4"]


def test_blank_lines_byte_order_mark_and_line_separators_are_harmless(folder: Path) -> None:
    path = write(folder, "\ufeff" + json.dumps(GOOD), "", json.dumps({**GOOD, "text": "one\u2028two"}, ensure_ascii=False))
    assert [utterance.text for utterance in read_manifest(path)] == ["take two", "one\u2028two"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "the line is not JSON"),
        ("[1]", "the line is not a JSON object"),
        ({"duration": 1, "text": "a"}, "the key 'audio_filepath' is missing; add it"),
        ({"audio_filepath": "a.wav", "text": "a"}, "the key 'duration' is missing; add the recording's length"),
        ({"audio_filepath": "a.wav", "duration": 1}, "the key 'text' is missing; add it"),
        ({**GOOD, "text": " "}, "'text' is empty; write what is said"),
        ({**GOOD, "text": 5}, "'text' is 5; write it as text"),
        ({**GOOD, "text": "\ud83d"}, "half of a character"),
        ({**GOOD, "audio_filepath": ""}, "'audio_filepath' is empty; write the path"),
        ({**GOOD, "audio_filepath": "none.wav"}, "there is no audio file .*none.wav; correct the path"),
        ({**GOOD, "audio_filepath": "x" * 5000}, "there is no audio file"),
        ({**GOOD, "audio_filepath": "sub"}, "there is no audio file"),
        ({**GOOD, "offset": -2.5}, "'offset' is -2.5; write where the utterance begins"),
        ({**GOOD, "duration": 0}, "'duration' is 0; write the recording's length in seconds, a number above 0"),
        ({**GOOD, "duration": -1.5}, "'duration' is -1.5"),
        ({**GOOD, "duration": float("nan")}, "'duration' is NaN"),
        ({**GOOD, "duration": float("inf")}, "'duration' is Infinity"),
        ({**GOOD, "duration": "1.5"}, "'duration' is \"1.5\""),
        ({**GOOD, "duration": True}, "'duration' is true"),
        ({**GOOD, "speaker": ["f"]}, "'speaker' is .*leave it out"),
        ({**GOOD, "id": "first"}, "the id 'first' is already that of line 1; give every utterance its own"),
    ],
)
def test_a_bad_line_is_refused_with_file_line_and_remedy(folder: Path, line: object, message: str) -> None:
    path = write(folder, {**GOOD, "id": "first"}, "", line)
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(path)
    text = str(caught.value)
    assert text.startswith(f"{path}, line 3: ") and text.endswith(".") and ";" in text


def test_a_file_that_is_not_utf8_is_refused(folder: Path) -> None:
    path = folder / "manifest.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"text": "caf\xe9"}\n')
    with pytest.raises(ManifestError, match=r"manifest.jsonl, line 2: the text is not UTF-8; save the file in UTF-8\."):
        read_manifest(path)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_manifest_is_refused(folder: Path, content: str) -> None:
    path = folder / "manifest.jsonl"
    path.write_text(content)
    with pytest.raises(ManifestError, match=r"manifest.jsonl: the file holds no utterance; write one JSON object per line\."):
        read_manifest(path)


def test_a_missing_manifest_or_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"none.jsonl: there is no such file; check the path\."):
        read_manifest(folder / "none.jsonl")
    with pytest.raises(ManifestError, match=r"the file cannot be read \(Is a directory\); check"):
        read_manifest(folder)


def test_writing_names_audio_below_the_folder_relative_to_it(folder: Path) -> None:
    utterance = Utterance("x", folder / "sub" / "a.wav", 1.0, "é", None, None)
    inside, outside = folder / "m.jsonl", folder / "other" / "m.jsonl"
    for path in (inside, outside):
        write_manifest(path, [utterance])
        assert read_manifest(path) == (utterance,)
    assert inside.read_text(encoding="utf-8") == '{"id": "x", "audio_filepath": "sub/a.wav", "duration": 1.0, "text": "é"}\n'
    assert json.loads(outside.read_text())["audio_filepath"] == (folder / "sub" / "a.wav").as_posix()


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(names, st.floats(min_value=1e-3, max_value=1e6), names, st.none() | names, st.none() | names),
        min_size=1,
        max_size=4,
        unique_by=lambda row: row[0],
    )
)
def test_what_is_written_is_read_back(rows: list[tuple[str, float, str, str | None, str | None]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder) / "a.wav"
        audio.touch()
        utterances = tuple(Utterance(identifier, audio, *rest) for identifier, *rest in rows)
        write_manifest(Path(folder) / "m.jsonl", utterances)
        assert read_manifest(Path(folder) / "m.jsonl") == utterances
