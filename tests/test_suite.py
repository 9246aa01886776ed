from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from asrmerge.content import content_folder
from asrmerge.errors import ConfigError
from asrmerge.suite import read_suite

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
