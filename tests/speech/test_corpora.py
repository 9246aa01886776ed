"""Corpora: every format as utterances, found by looking or by prefix, and every refusal with its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from corpus_files import audio, text

from asrmerge.errors import AudioError, ManifestError
from asrmerge.speech.corpora import read_corpus
from asrmerge.speech.manifest import Utterance


def read(source: Path | str, cache: Path = Path("no-cache"), **options: Any) -> tuple[Utterance, ...]:
    return read_corpus(str(source), cache=cache, **options)


def lines(path: Path, *records: dict[str, Any]) -> Path:
    content = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    audio(tmp_path / "clips" / "a.wav", 0.5)
    audio(tmp_path / "clips" / "b.flac", 1.25)
    return tmp_path


A, B = "clips/a.wav", "clips/b.flac"


@pytest.mark.parametrize("name", ["test.jsonl", "test.json", "test.jsonl.gz"])
def test_nemo_json_lines(folder: Path, name: str) -> None:
    path = lines(
        folder / name,
        {"audio_filepath": A, "duration": 0.4, "text": "", "speaker": 3, "lang": "en", "pred_text": "x", "offset": 0.1},
        {"audio_filepath": B, "text": "two"},
    )
    assert read(path) == (
        Utterance("a", folder / A, 0.4, "", "3", None, 0.1, {"lang": "en"}),
        Utterance("b", folder / B, 1.25, "two"),
    )


def test_leaderboard_json_lines_are_references_with_or_without_their_audio(folder: Path) -> None:
    path = lines(
        folder / "MODEL_openai-whisper-tiny_DATASET_esb_ami_test.jsonl",
        {"audio_filepath": "sample_0", "duration": 0.5, "time": 0.1, "text": "one", "pred_text": "won"},
        {"audio_filepath": "b.flac", "duration": None, "time": None, "text": "two", "pred_text": "two"},
    )
    first, second = read(path)
    assert (first.identifier, first.text, first.duration, first.fields) == ("sample_0", "one", 0.5, {"time": "0.1"})
    assert (second.identifier, second.duration) == ("b", 0.0)
    audio(folder / "clips" / "sample_0.wav")
    assert [one.audio for one in read(f"{path},folder={folder}/clips")] == [folder / "clips" / "sample_0.wav", folder / B]
    (folder / A).unlink()
    (folder / B).unlink()
    with pytest.raises(ManifestError, match=r"line 2: there is no audio file 'b\.flac' in .*clips; check the folder\."):
        read(f"{path},folder={folder}/clips")


def test_sclite_transcripts_with_audio_called_by_their_ids(folder: Path) -> None:
    path = text(folder / "ref.trn", ";; a comment (c)", "hello (there) you (a)", "(b)")
    expected = (Utterance("a", folder / A, 0.5, "hello (there) you"), Utterance("b", folder / B, 1.25, ""))
    assert read(path) == read(f"trn:{path},folder={folder}/clips") == expected


def test_sclite_transcripts_alone_are_references(folder: Path) -> None:
    path = text(folder / "other" / "ref.trn", "hello (x)", "(y)")
    assert [(one.identifier, one.text, one.duration, one.audio.exists()) for one in read(path)] == [
        ("x", "hello", 0.0, False),
        ("y", "", 0.0, False),
    ]
    with pytest.raises(ManifestError, match=r"line 1: there is no audio file called 'x' in .*clips"):
        read(f"{path},folder={folder}/clips")


def kaldi(folder: Path) -> Path:
    data = folder / "data"
    text(data / "wav.scp", f"rec1 {folder / A}", f"rec2 ../{B}")
    text(data / "text", "u1 hello you", "u2", "u3 bye")
    text(data / "segments", "u1 rec2 0.25 0.75", "u2 rec2 0.75 -1", "u3 rec1 0 0.5")
    text(data / "utt2spk", "u1 f01", "u2 u2", "u3 f01")
    text(data / "spk2gender", "f01 f")
    text(data / "utt2lang", "u1 en", "u3 de")
    return data


def test_kaldi_folders_with_segments(folder: Path) -> None:
    assert read(kaldi(folder), domain="legal") == (
        Utterance("u1", folder / "data" / ".." / B, 0.5, "hello you", "f01", "legal", 0.25, {"lang": "en", "gender": "f"}),
        Utterance("u2", folder / "data" / ".." / B, 0.5, "", None, "legal", 0.75),
        Utterance("u3", folder / A, 0.5, "bye", "f01", "legal", 0.0, {"lang": "de", "gender": "f"}),
    )


def test_kaldi_folders_without_segments(folder: Path) -> None:
    data = folder / "data"
    text(data / "wav.scp", f"a {folder / A}", f"b {folder / B}")
    text(data / "text", "a one", "b two")
    text(data / "utt2dur", "a 0.45")
    assert [(one.identifier, one.duration, one.start, one.speaker) for one in read(data)] == [
        ("a", 0.45, None, None),
        ("b", 1.25, None, None),
    ]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("wav.scp", "rec1 flac -cd a.flac |", r"wav\.scp, line 1: 'flac -cd a\.flac \|' is a command, which is not run; write"),
        ("wav.scp", "rec1 raw.ark:15", r"wav\.scp, line 1: raw\.ark:15 is a place in an archive, which is not read"),
        ("wav.scp", "rec1 gone.wav", r"wav\.scp, line 1: there is no audio file .*gone\.wav; correct the path"),
        ("wav.scp", "other a.wav", r"segments, line 1: the recording 'rec1' is not in .*wav\.scp; add it"),
        ("segments", "u1 rec1 0", r"segments, line 1: a segment is written 'utterance recording start end'"),
        ("segments", "u1 rec1 2 1", r"segments, line 1: the segment runs from 2 to 1 s; correct its times"),
        ("segments", "u1 rec1 a 1", r"segments, line 1: 'a' is no number of seconds"),
        ("segments", "u9 rec1 0 1", r"text, line 1: the utterance 'u1' is not in .*segments; run fix_data_dir\.sh"),
        ("text", "u1 a\nu2 b\nu4 c", r"text, line 2: the utterance 'u2' and 1 more are not in .*segments"),
        ("text", "u1 a\nu1 b", r"text, line 2: the id 'u1' is already that of line 1"),
    ],
)
def test_kaldi_folders_that_cannot_be_read(folder: Path, file: str, content: str, message: str) -> None:
    data = folder / "data"
    text(data / "wav.scp", f"rec1 {folder / A}")
    text(data / "text", "u1 hello")
    text(data / "segments", "u1 rec1 0 0.5")
    text(data / file, content)
    with pytest.raises(ManifestError, match=message):
        read(data)


RECORDING = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": B}], "sampling_rate": 16000, "duration": 1.25}
SUPERVISION = {"id": "s1", "recording_id": "r", "start": 0.25, "duration": 0.5, "channel": 0, "text": "one"}


def lhotse(folder: Path, recording: dict[str, Any], *supervisions: dict[str, Any]) -> Path:
    lines(folder / "x_recordings_test.jsonl.gz", recording)
    return lines(folder / "x_supervisions_test.jsonl.gz", *supervisions)


def test_lhotse_manifests_by_file_or_folder(folder: Path) -> None:
    whole = {
        **SUPERVISION,
        "id": "s2",
        "start": 0,
        "duration": 1.25,
        "speaker": "f",
        "gender": "F",
        "custom": {"snr": 3, "x": [1]},
    }
    path = lhotse(folder, RECORDING, SUPERVISION, whole)
    expected = (
        Utterance("s1", folder / B, 0.5, "one", start=0.25),
        Utterance("s2", folder / B, 1.25, "one", "f", fields={"gender": "F", "snr": "3"}),
    )
    assert read(path) == read(folder) == read(f"lhotse:{path}") == expected
    lines(folder / "y_supervisions_dev.jsonl", SUPERVISION)
    with pytest.raises(ManifestError, match="one file of supervisions is read at a time, and there is x_supervisions_test"):
        read(folder)


@pytest.mark.parametrize(
    ("recording", "supervisions", "message"),
    [
        (
            {"sources": [{"type": "command", "source": "cat"}]},
            [{}],
            r"recordings_test\.jsonl\.gz, line 1: .* only one file is read",
        ),
        ({"transforms": [{"name": "Speed"}]}, [{}], r"recordings.*line 1: the recording's transforms are not applied"),
        ({"sources": [{"type": "file", "source": "no.wav"}]}, [{}], r"recordings.*line 1: there is no audio file .*no\.wav"),
        ({}, [{}, {"id": "s2", "channel": 1}], r"supervisions.*line 2: the recording 'r' has supervisions on several channels"),
        ({}, [{"recording_id": "q"}], r"supervisions.*line 1: the recording 'q' is not in the file of recordings"),
        ({}, [{"text": None}], r"supervisions.*line 1: 'text' is null"),
        ({}, [{}, {}], r"supervisions.*line 2: the id 's1' is already that of line 1"),
    ],
)
def test_lhotse_manifests_that_cannot_be_read(
    folder: Path, recording: dict[str, Any], supervisions: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        read(lhotse(folder, RECORDING | recording, *(SUPERVISION | one for one in supervisions)))


def test_a_damaged_gzip_file_is_refused(folder: Path) -> None:
    path = lhotse(folder, RECORDING, SUPERVISION)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(
        ManifestError, match=r"supervisions_test\.jsonl\.gz: the file is damaged or no gzip file .*compress it again"
    ):
        read(path)


def test_common_voice(folder: Path) -> None:
    audio(folder / "clips" / "c.mp3.wav").rename(folder / "clips" / "c.mp3")  # libsndfile looks at the content
    path = text(
        folder / "test.tsv",
        "client_id\tpath\tsentence\tage\tgender",
        'abc\ta.wav\t"Hello, she said.\ttwenties\t',
        "def\tc\tBye.\t\tfemale",
    )
    expected = [
        Utterance("a", folder / A, 0.5, '"Hello, she said.', "abc", fields={"age": "twenties"}),
        Utterance("c", folder / "clips" / "c.mp3", 0.5, "Bye.", "def", fields={"gender": "female"}),
    ]
    assert list(read(path)) == expected
    text(folder / "clip_durations.tsv", "clip\tduration[ms]", "a.wav\t498")
    assert [one.duration for one in read(path)] == [0.498, 0.5]


@pytest.mark.parametrize(
    "content",
    [
        ["audio,text,speaker,id,accent", f'{A},"one, two",f,x,us', f"{B},,,y,"],
        ["Path;Sentence;spk;utt_id;accent", f"{A};one, two;f;x;us", "", f"{B};;;y;"],
        ["file|transcript|speaker_id|uttid|accent", f"{A}|one, two|f|x|us", f"{B}|||y|"],
    ],
)
def test_tables(folder: Path, content: list[str]) -> None:
    path = text(folder / "test.csv", *content)
    assert read(path) == (
        Utterance("x", folder / A, 0.5, "one, two", "f", fields={"accent": "us"}),
        Utterance("y", folder / B, 1.25, ""),
    )


def test_columns_and_audio_folder_of_a_table_may_be_named(folder: Path) -> None:
    path = text(folder / "t.tsv", "clip\traw\ttext\tduration\toffset", "a.wav\tOne.\tone\t0.25\t0.1")
    utterances = read(f"{path},audio=clip,text=raw,folder={folder}/clips")
    assert utterances == (Utterance("a", folder / A, 0.25, "One.", start=0.1),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            ["wave,words", "a,b"],
            r"t\.csv: there is no column for the audio, such as .*; name one of wave, words by ',audio=COLUMN'",
        ),
        (["path,words", "a,b"], r"t\.csv: there is no column for the text, .* name one of path, words by ',text=COLUMN'"),
        (["path,text", "a,b,c"], r"t\.csv, line 2: the row has 3 columns and the header 2 \(path, text\); correct it"),
        (["path,text", '"a"b,c'], r"t\.csv, line 2: the row cannot be read \(.*\); correct its quotation marks"),
        (["path,text"], r"t\.csv: the table holds no rows"),
        (["path,text", ",b"], r"t\.csv, line 2: 'path' is empty; write the path of the audio file"),
        (["path,text", "gone.wav,b"], r"t\.csv, line 2: there is no audio file .*gone\.wav; correct the path"),
        (["path,text,id", f"{A},b,x", f"{B},b,x"], r"t\.csv, line 3: the id 'x' is already that of line 2"),
        (["path,text,duration", f"{A},b,long"], r"t\.csv, line 2: 'duration' is 'long'; write it in seconds"),
    ],
)
def test_tables_that_cannot_be_read(folder: Path, content: list[str], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read(text(folder / "t.csv", *content))


def test_a_table_that_is_not_utf8_is_refused(folder: Path) -> None:
    path = folder / "t.csv"
    path.write_bytes(b"path,text\na.wav,caf\xe9\n")
    with pytest.raises(ManifestError, match=r"t\.csv, line 2: the text is not UTF-8; save the file in UTF-8\."):
        read(path)


def test_folders_of_audio_and_text(folder: Path) -> None:
    text(folder / "clips" / "a.txt", "hello", "you")
    text(folder / "clips" / "b.txt")
    text(folder / "README.txt", "about")
    assert read(folder) == (Utterance("clips/a", folder / A, 0.5, "hello you"), Utterance("clips/b", folder / B, 1.25, ""))
    (folder / "clips" / "b.txt").unlink()
    with pytest.raises(ManifestError, match=r"1 of 2 audio files have no text beside them, such as .*b\.flac; write b\.txt"):
        read(folder)


def test_folders_of_librispeech(tmp_path: Path) -> None:
    chapter = tmp_path / "84" / "121123"
    for number in range(2):
        audio(chapter / f"84-121123-000{number}.flac")
    text(chapter / "84-121123.trans.txt", "84-121123-0000 GO ON", "84-121123-0001 STOP")
    assert [(one.identifier, one.text, one.speaker, one.duration) for one in read(tmp_path)] == [
        ("84-121123-0000", "GO ON", "84", 0.5),
        ("84-121123-0001", "STOP", "84", 0.5),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hello", r"line 1: the line does not end with the utterance's id in brackets; write 'the words \(id\)'"),
        ("{a / b} c (a)", r"line 1: the text holds alternatives in braces; write the one that counts"),
        ("hello (a)\nyou (z)", r"line 2: there is no audio file called 'z' in .*; name its folder by ',folder=…'"),
        ("hello (a)\nyou (a)", r"line 2: the id 'a' is already that of line 1; give every utterance its own"),
    ],
)
def test_transcripts_that_cannot_be_read(folder: Path, line: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read(text(folder / "ref.trn", line))


def test_two_audio_files_of_one_name_are_refused(folder: Path) -> None:
    audio(folder / "more" / "a.flac")
    with pytest.raises(ManifestError, match=r"more/a\.flac: .*clips/a\.wav has the same name; rename one"):
        read(text(folder / "ref.trn", "hello (a)"))


def test_audio_that_cannot_be_read_stays_but_is_not_trained_on(folder: Path) -> None:
    (folder / A).write_bytes(b"no sound")
    path = lines(folder / "t.jsonl", {"audio_filepath": A, "text": "one"}, {"audio_filepath": A, "text": "two", "duration": 2.5})
    assert [one.duration for one in read(path)] == [0.0, 2.5]
    with pytest.raises(AudioError, match=r"a\.wav: the audio cannot be decoded|a\.wav: this kind of file is not known"):
        read(path, training=True)


def test_empty_texts_are_test_data_but_not_trained_on(folder: Path) -> None:
    path = lines(folder / "t.jsonl", {"audio_filepath": A, "text": "a"}, {"audio_filepath": B, "text": " "})
    assert len(read(path)) == 2
    with pytest.raises(ManifestError, match=r"t\.jsonl, line 2: the text is empty; write what is said"):
        read(path, training=True)


def test_progress_is_told_to_the_end(folder: Path) -> None:
    path = lines(folder / "t.jsonl", {"audio_filepath": A, "text": "a"}, {"audio_filepath": B, "text": "b"})
    told: list[tuple[int, int]] = []
    read(path, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_a_comma_in_a_path_begins_no_option(folder: Path) -> None:
    path = lines(folder / "a,b=c.jsonl", {"audio_filepath": A, "text": "a"})
    assert len(read(path)) == len(read(f"nemo:{path}")) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "none.csv",
            r"none\.csv: there is no such file or folder; check the path, or name the format before it, FORMAT:PLACE with",
        ),
        ("a.odd", r"a\.odd: it is of no format that is known by its name; name one before it, as in common_voice:.*a\.odd \("),
        (
            "t.csv,txt=x",
            r"table:.*t\.csv,txt=x: there is no option 'txt'; did you mean 'text'\? \(known are audio, folder, text\)",
        ),
        ("empty", r"empty: there is no utterance in it; check the path"),
    ],
)
def test_sources_that_cannot_be_read(folder: Path, source: str, message: str) -> None:
    text(folder / "a.odd", "?")
    text(folder / "t.csv", "path,text", f"{A},x")
    (folder / "empty").mkdir()
    with pytest.raises(ManifestError, match=message):
        read(folder / source)


def test_a_path_of_two_formats_asks_for_one(folder: Path) -> None:
    lhotse(kaldi(folder), RECORDING, SUPERVISION)
    with pytest.raises(
        ManifestError, match=r"data: it could be of several formats; name one before it, as in kaldi:.*\(kaldi, lhotse\)"
    ):
        read(folder / "data")
    assert len(read(f"kaldi:{folder}/data")) == 3
