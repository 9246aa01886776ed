"""Transcripts of any system: every format joined with the test set, and what does not match said by ids and counts."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sctk_runner import needs_sctk

from asrmerge.errors import ManifestError
from asrmerge.evaluation.hypotheses import Hypothesis, write_hypotheses
from asrmerge.evaluation.outputs import read_outputs, write_trn
from asrmerge.speech.manifest import Utterance

REFERENCES = (
    Utterance("u1", Path("clips/a.wav"), 1.0, "One two.", "f", "legal", None, {"accent": "us"}),
    Utterance("u2", Path("clips/b.wav"), 2.0, "three", None, "legal", 0.5),
    Utterance("u3", Path("clips/c.wav"), 3.0, ""),
)
PREDICTIONS = ["one too", "three", ""]


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def json_lines(path: Path, *records: dict[str, Any]) -> Path:
    return text(path, *(json.dumps(record) for record in records))


def expected(references: Sequence[Utterance] = REFERENCES) -> tuple[Hypothesis, ...]:
    return tuple(
        Hypothesis(one.identifier, one.audio, one.duration, one.text, said, one.speaker, one.domain, one.start, one.fields)
        for one, said in zip(references, PREDICTIONS, strict=True)
    )


def test_json_lines_join_by_id_or_by_audio_file_in_the_order_of_the_references(tmp_path: Path) -> None:
    by_id = [{"id": one.identifier, "pred_text": said} for one, said in zip(REFERENCES, PREDICTIONS, strict=True)]
    by_file = [
        {"audio_filepath": f"/x/{one.audio.name}", "pred_text": said} for one, said in zip(REFERENCES, PREDICTIONS, strict=True)
    ]
    both = [{"id": f"x{number}", **record} for number, record in enumerate(by_file)]
    for name, records in {"ids": by_id, "files": by_file, "foreign-ids": both}.items():
        path = json_lines(tmp_path / f"{name}.jsonl", *reversed(records))
        assert read_outputs(path, REFERENCES) == expected()


def test_segments_of_one_file_without_ids_join_as_they_are_read(tmp_path: Path) -> None:
    segments = [Utterance(name, Path("a.wav"), 1.0, name, start=0.0) for name in ("a", "a-2", "a-3")]
    records = [{"audio_filepath": "a.wav", "offset": number, "pred_text": said} for number, said in enumerate(PREDICTIONS)]
    assert read_outputs(json_lines(tmp_path / "x.json", *records), segments) == expected(segments)


def test_own_hypotheses_come_back_with_or_without_references(tmp_path: Path) -> None:
    hypotheses = (
        Hypothesis("x", tmp_path / "a.wav", 1.5, "one", "won", "f", "legal", 0.5, {"accent": "us"}),
        Hypothesis("y", tmp_path / "b.wav", 1.0, "", "", silent=True),
        Hypothesis("z", tmp_path / "c.wav", 1.0, "two", "", error="it cannot be decoded"),
    )
    write_hypotheses(tmp_path / "h.jsonl", hypotheses)
    references = [Utterance(one.identifier, one.audio, one.duration, one.text.upper()) for one in hypotheses]
    assert read_outputs(tmp_path / "h.jsonl") == hypotheses
    joined = read_outputs(tmp_path / "h.jsonl", references)
    assert [(one.text, one.prediction, one.silent, one.error) for one in joined] == [
        ("ONE", "won", False, None),
        ("", "", True, None),
        ("TWO", "", False, "it cannot be decoded"),
    ]


def leaderboard(folder: Path, *rows: tuple[str, str, str]) -> Path:
    records = [
        {"audio_filepath": name, "duration": None, "time": 0.1, "text": text, "pred_text": said} for name, text, said in rows
    ]
    return json_lines(folder / "MODEL_a-b_DATASET_c_d_test.jsonl", *records)


def test_leaderboard_manifests_join_by_order_where_they_have_no_names(tmp_path: Path) -> None:
    path = leaderboard(tmp_path, ("sample_0", "12", "one too"), ("sample_1", "3", "three"))
    assert read_outputs(path, REFERENCES[:2]) == expected()[:2]
    assert [(one.identifier, one.text, one.prediction, one.fields) for one in read_outputs(path)] == [
        ("sample_0", "12", "one too", {"time": "0.1"}),
        ("sample_1", "3", "three", {"time": "0.1"}),
    ]
    with pytest.raises(ManifestError, match=r"there are 2 transcripts without ids for 3 utterances; leave out of the test set"):
        read_outputs(path, REFERENCES)


def test_leaderboard_manifests_join_by_name(tmp_path: Path) -> None:
    path = leaderboard(tmp_path, ("u3", "", ""), ("b.wav", "3", "three"), ("u1", "12", "one too"))
    assert read_outputs(path, REFERENCES) == expected()


def test_leaderboard_manifests_in_another_order_are_refused(tmp_path: Path) -> None:
    path = leaderboard(tmp_path, ("sample_0", "three", "three"), ("sample_1", "one two", "one too"))
    with pytest.raises(
        ManifestError, match=r"line 1: the reference text is another than the test set's, as in 1 more of 2; .* order"
    ):
        read_outputs(path, REFERENCES[:2])


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("h.trn", [";; a comment", "one too (u1)", "three (u2)", "(u3)"]),
        ("text", ["u1 one too", "u2 three", "u3"]),
        ("hyp.txt", ["u3", "u2\tthree", "u1 one too"]),
        ("h.csv", ["id,pred_text", "u1,one too", "u2,three", "u3,"]),
        ("h.csv", ["file,reference,transcript", "x/a.wav,x,one too", "x/b.wav,x,three", "x/c.wav,x,"]),
        ("h.tsv", ["id\tsaid\tpred_text", "u1\tone too\tx", "u2\tthree\tx", "u3\t\tx"]),
    ],
)
def test_other_formats_join_by_id_or_audio_file(tmp_path: Path, name: str, lines: list[str]) -> None:
    option = ",prediction=said" if "said" in lines[0] else ""
    assert read_outputs(f"{text(tmp_path / name, *lines)}{option}", REFERENCES) == expected()


def test_a_folder_of_texts_joins_by_path_or_name(tmp_path: Path) -> None:
    text(tmp_path / "h" / "u1.txt", "one", "too")
    text(tmp_path / "h" / "sub" / "b.txt", "three")
    text(tmp_path / "h" / "sub" / "u3.txt")
    assert read_outputs(tmp_path / "h", REFERENCES) == expected()
    nested = [Utterance("sub/u3", Path("x/u3.wav"), 1.0, ""), Utterance("u3", Path("y/u3.wav"), 1.0, "")]
    text(tmp_path / "h" / "u3.txt", "here")
    (tmp_path / "h" / "u1.txt").unlink()
    (tmp_path / "h" / "sub" / "b.txt").unlink()
    assert [one.prediction for one in read_outputs(tmp_path / "h", nested)] == ["", "here"]


def test_a_table_may_bring_its_references(tmp_path: Path) -> None:
    path = text(tmp_path / "h.csv", "id,reference,hypothesis,speaker", "u1,one two,one too,f")
    assert read_outputs(path) == (Hypothesis("u1", tmp_path / "u1", 0.0, "one two", "one too", "f"),)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["u1 a", "x1 b", "x2 c"],
            r"h\.txt: 2 of 3 utterances have no transcript, such as 'u2', 'u3', and 2 of 3 transcripts are of no utterance of "
            r"the test set, such as 'x1', 'x2'; check that it is of this test set, whole and with its ids\.",
        ),
        (["u1 a", "u2 b"], r"h\.txt: 1 of 3 utterances have no transcript, such as 'u3'; check"),
        (
            ["u1 a", "u2 b", "u3 c", "u4 d"],
            r"h\.txt: 1 of 4 transcripts are of no utterance of the test set, such as 'u4'; check",
        ),
        (["u1 a", "u2 b", "u1 c"], r"h\.txt, line 3: the id 'u1' is already that of line 1"),
        (
            ["u1 a", "u2 b", "a c", "u3 d"],
            r"h\.txt, line 3: utterance 'u1' has a transcript already, in .*h\.txt, line 1; keep one",
        ),
        ([], r"h\.txt: there is no transcript in it; check the path"),
    ],
)
def test_what_does_not_match_is_named_and_counted(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_outputs(text(tmp_path / "h.txt", *lines), REFERENCES)


def test_many_missing_ids_are_counted_not_listed(tmp_path: Path) -> None:
    references = [Utterance(f"u{number}", Path(f"{number}.wav"), 1.0, "") for number in range(500)]
    with pytest.raises(ManifestError, match=r"499 of 500 utterances have no transcript, such as 'u1', 'u2', 'u3'; check"):
        read_outputs(text(tmp_path / "h.txt", "u0 a"), references)


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("h.trn", ["a (u1)"], r"h\.trn, line 1: there is no reference text with the transcript; give the test set that it is of"),
        ("h.jsonl", ['{"id": "u1", "text": "a"}'], r"h\.jsonl, line 1: the key 'pred_text' is missing"),
        (
            "h.csv",
            ["id,foo", "u1,a"],
            r"h\.csv: there is no column for the prediction, .* name one of id, foo by ',prediction=COLUMN'",
        ),
        ("h.csv", ["hyp,foo", "a,b"], r"h\.csv: there is no column of ids or audio files among hyp, foo; add one named 'id'"),
        ("h.csv", ["id,hyp,ref", "u1,a,b", "u1,c,d"], r"h\.csv, line 3: the id 'u1' is already that of line 2"),
        ("h.odd", ["?"], r"h\.odd: it is of no format that is known by its name; name one before it"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, lines: list[str], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_outputs(text(tmp_path / name, *lines))


def test_written_trn_is_read_back(tmp_path: Path) -> None:
    write_trn(tmp_path / "h.trn", [(one.identifier, said) for one, said in zip(REFERENCES, PREDICTIONS, strict=True)])
    assert (tmp_path / "h.trn").read_text() == "one too (u1)\nthree (u2)\n(u3)\n"
    assert read_outputs(tmp_path / "h.trn", REFERENCES) == expected()


@needs_sctk
def test_sclite_reads_every_word_that_is_written(tmp_path: Path) -> None:
    references = ["a@b <unk> don't", "*x* [y] (uh)", "", "ein Wort é", "%hes a/b -"]
    for name in ("ref", "hyp"):
        write_trn(tmp_path / f"{name}.trn", [(f"s-{number}", text) for number, text in enumerate(references)])
    options = ["-r", "ref.trn", "trn", "-h", "hyp.trn", "trn", "-i", "spu_id", "-o", "pra", "stdout"]
    printed = subprocess.run(["sctk", "sclite", *options], cwd=tmp_path, capture_output=True, check=True).stdout.decode()
    scores = re.findall(r"id: \(s-(\d)\)\nScores: \(#C #S #D #I\) (\d+) 0 0 0\n", printed)
    assert {int(number): int(correct) for number, correct in scores} == {0: 3, 1: 3, 2: 0, 3: 3, 4: 3}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("a b", "x")], r"h\.trn: the id 'a b' has brackets or blanks"),
        ([("a", "x"), ("A", "y")], r"h\.trn: the id 'A' occurs twice \(sclite ignores case\)"),
        ([("a", "x {y")], r"h\.trn: the text of 'a' holds '\{', which is no word to sclite; normalise the texts"),
        ([("a", "x @ y")], r"holds '@'"),
        ([("a", r"x\y")], r"holds '\\'"),
        ([("a", ";; x")], r"holds ';;'"),
    ],
)
def test_what_sclite_would_read_otherwise_is_not_written(tmp_path: Path, pairs: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        write_trn(tmp_path / "h.trn", pairs)
    assert not (tmp_path / "h.trn").exists()
