"""Output formats: what each writes, which is chosen, and where it goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asrmerge.errors import ConfigError
from asrmerge.evaluation.hypotheses import read_hypotheses
from asrmerge.speech.manifest import Utterance
from asrmerge.speech.timed_text import Segment, Word
from asrmerge.transcribing.registry import find_formats, get_format
from asrmerge.transcribing.transcript import Transcript
from asrmerge.transcribing.writing import transcript_output


def transcripts(folder: Path) -> list[Transcript]:
    segments = (
        Segment(0.5, 2.0, "take two", (Word("take", 0.5, 1.0), Word(" two", 1.2, 2.0))),
        Segment(3_661.25, 3_662.5, "now", (Word("now", 3_661.25, 3_662.5),), estimated=True),
    )
    good = Utterance("one", folder / "one.wav", 3_700.0, "take too", "f03", fields={"room": "4"})
    return [
        Transcript(good, "take two now", segments),
        Transcript(Utterance("two (b)", folder / "two.wav", 0.0, ""), "", error="two.wav: broken."),
        Transcript(Utterance("three c", folder / "three.wav", 1.0, ""), ""),
    ]


def render(name: str, folder: Path) -> str:
    return "".join(get_format(name, None).render(transcript, folder) for transcript in transcripts(folder))


def test_text_has_a_line_for_every_recording(tmp_path: Path) -> None:
    assert render("text", tmp_path) == "take two now\n\n\n"


def test_trn_has_ids_without_spaces_and_leaves_failures_out(tmp_path: Path) -> None:
    assert render("trn", tmp_path) == "take two now (one)\n(three_c)\n"


def test_json_lines_have_nemos_keys_and_segments(tmp_path: Path) -> None:
    first, second, third = map(json.loads, render("jsonl", tmp_path).splitlines())
    assert first == {
        "id": "one", "audio_filepath": "one.wav", "duration": 3700.0, "text": "take too", "pred_text": "take two now",
        "segments": [
            {"start": 0.5, "end": 2.0, "text": "take two",
             "words": [{"start": 0.5, "end": 1.0, "word": "take"}, {"start": 1.2, "end": 2.0, "word": "two"}]},
            {"start": 3661.25, "end": 3662.5, "text": "now"},
        ],
        "speaker": "f03", "room": "4",
    }  # fmt: skip
    assert (second["pred_text"], second["error"]) == ("", "two.wav: broken.")
    assert "segments" not in third and "error" not in third


def test_json_lines_of_a_manifest_with_texts_can_be_scored(tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text(get_format("jsonl", None).render(transcripts(tmp_path)[0], tmp_path))
    (hypothesis,) = read_hypotheses(tmp_path / "h.jsonl")
    assert (hypothesis.text, hypothesis.prediction, hypothesis.fields) == ("take too", "take two now", {"room": "4"})


def test_srt_has_numbers_and_times(tmp_path: Path) -> None:
    assert get_format("srt", None).render(transcripts(tmp_path)[0], tmp_path) == (
        "1\n00:00:00,500 --> 00:00:02,000\ntake two\n\n2\n01:01:01,250 --> 01:01:02,500\nnow\n\n"
    )


def test_the_format_is_named_or_follows_from_the_ending() -> None:
    assert list(find_formats()) == ["jsonl", "srt", "text", "trn"]
    chosen = {ending: get_format(None, Path(f"out{ending}")).name for ending in (".JSONL", ".srt", ".txt", ".trn", "")}
    assert chosen == {".JSONL": "jsonl", ".srt": "srt", ".txt": "text", ".trn": "trn", "": "text"}
    assert get_format("srt", Path("out.txt")).name == "srt"
    with pytest.raises(ConfigError, match=r"no output format 'jsnl'; did you mean 'jsonl'"):
        get_format("jsnl", None)
    with pytest.raises(ConfigError, match=r"out\.docx: no output format has this ending; name one with --format \(jsonl, srt"):
        get_format(None, Path("out.docx"))


def write(output: Path | None, name: str, folder: Path) -> str:
    shown: list[str] = []
    found = transcripts(folder)
    with transcript_output(output, get_format(name, output), [one.recording for one in found], shown.append) as take:
        for transcript in found:
            take(transcript)
    return "".join(shown)


def test_output_goes_to_the_screen_a_file_or_a_folder(tmp_path: Path) -> None:
    assert write(None, "trn", tmp_path) == render("trn", tmp_path)
    assert write(tmp_path / "deep" / "out.trn", "trn", tmp_path) == ""
    assert (tmp_path / "deep" / "out.trn").read_text() == render("trn", tmp_path)
    write(tmp_path / "out", "srt", tmp_path)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["one.srt", "three c.srt"]


def test_subtitles_of_several_recordings_need_a_folder(tmp_path: Path) -> None:
    for output in (None, tmp_path / "out.srt"):
        with pytest.raises(ConfigError, match=r"srt holds one recording and there are 3; give a folder with --output"):
            write(output, "srt", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_stays_as_it_was_when_transcribing_fails(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("old")
    with (
        pytest.raises(ZeroDivisionError),
        transcript_output(tmp_path / "out.txt", get_format("text", None), [], print) as take,
    ):
        take(transcripts(tmp_path)[0])
        raise ZeroDivisionError
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("out.txt", "old")]


def test_two_recordings_never_share_a_file(tmp_path: Path) -> None:
    recordings = [Utterance(identifier, tmp_path / "a.wav", 1.0, "") for identifier in ("a/b", "a_b")]
    with (
        pytest.raises(ConfigError, match=r"'a_b' and 'a/b' would both be written to .*a_b\.txt"),
        transcript_output(tmp_path, get_format("text", None), recordings, print),
    ):
        pass
