from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from asrmerge.content import content_folder
from asrmerge.errors import ConfigError
from asrmerge.suite import complete_suite, read_suite

SUITE = {
    "name": "demo",
    "sets": {"medical": {"corpus": "m.jsonl"}, "general": {"corpus": "${data}/g.jsonl"}},
    "general": "general",
}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({**SUITE, **changes}), encoding="utf-8")
    return path


def test_a_suite_is_read_with_its_variables(tmp_path: Path) -> None:
    suite = read_suite(write(tmp_path), {"data": "/data"})
    assert suite.sets["general"].corpus == "/data/g.jsonl"
    assert suite.target_names == ("medical",)
    assert read_suite(write(tmp_path, targets=["medical", "general"]), {"data": "x"}).target_names == ("medical", "general")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sets": {"macro": {"corpus": "m"}}, "general": None}, "a set cannot be called 'macro', a name that gates use"),
        ({"sets": {"a b": {"corpus": "m"}}, "general": None}, "may hold only letters"),
        ({"sets": {"medical": {}}}, "give either 'corpus' or 'synthesize'"),
        ({"targets": ["law"]}, "'law' is none of the sets"),
        ({"targets": []}, "no set is left to average"),
        ({"normaliser": "basic"}, "unknown key 'normaliser'; did you mean 'normalizer'"),
        ({"level": 95}, "'level' is 95"),
    ],
)
def test_bad_suites_are_refused_in_a_sentence(tmp_path: Path, changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_suite(write(tmp_path, **changes), {"data": "x"})


def test_missing_suites_and_variables_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such suite; give a YAML file, or one of the shipped ones"):
        read_suite("nothing.yaml")
    with pytest.raises(ConfigError, match=r"'\$\{data\}' is not set"):
        read_suite(write(tmp_path))


@pytest.mark.parametrize("file", sorted(content_folder("eval").glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_suites_are_good(file: Path) -> None:
    assert read_suite(file, {"speech": "/speech"}).name == file.stem


def test_the_command_line_adds_to_a_suite(tmp_path: Path) -> None:
    path = str(write(tmp_path, gates=["medical.wer <= 0.1"], seed=3))
    changes = {
        "sets": {"legal": "l.jsonl", "medical": "other.jsonl"},
        "terms": {"legal": "law.txt"},
        "gates": ["legal.wer <= 0.2"],
        "normalizer": "basic",
        "seed": None,
        "slices": [],
    }
    suite = complete_suite(path, {"data": "/data"}, changes)
    assert {name: one.corpus for name, one in suite.sets.items()} == {
        "medical": "other.jsonl",
        "general": "/data/g.jsonl",
        "legal": "l.jsonl",
    }
    assert suite.sets["legal"].terms == "law.txt" and suite.gates == ("medical.wer <= 0.1", "legal.wer <= 0.2")
    assert (suite.name, suite.normalizer, suite.seed) == ("demo", "basic", 3)


def test_a_suite_from_the_command_line_alone() -> None:
    suite = complete_suite(None, None, {"name": "x", "sets": {"a": "a.jsonl"}, "level": 0.9})
    assert (suite.name, suite.level, suite.target_names) == ("x", 0.9, ("a",))
    with pytest.raises(ConfigError, match=r"there is no test set: give some as --set NAME=PLACE"):
        complete_suite(None, None, {"name": "x"})
    with pytest.raises(ConfigError, match=r"terms are given for 'b', which is no set; known are a"):
        complete_suite(None, None, {"name": "x", "sets": {"a": "a.jsonl"}, "terms": {"b": "t"}})
