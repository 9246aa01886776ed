"""What a model may be given as: checkpoints, exported folders, and transcripts of any system."""

from __future__ import annotations

from pathlib import Path

import pytest

from asrmerge.content import resolve_model
from asrmerge.errors import CheckpointError, ConfigError
from asrmerge.pipeline.systems import check_loadable, parse_systems

SETS = ("legal", "medical")


def outputs(text: str, sets: tuple[str, ...] = SETS) -> dict[str, str]:
    (system,) = parse_systems([text], sets)
    return dict(system.outputs)


@pytest.mark.parametrize("source", ["openai/whisper-small", "embedded:ctc"])
def test_models_by_name(source: str) -> None:
    (system,) = parse_systems([f"x={source}"], SETS)
    assert system.transcribes and system.source == resolve_model(source)


def test_a_folder_with_a_configuration_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert not outputs(f"x={tmp_path}")


def test_transcripts_of_several_sets(tmp_path: Path) -> None:
    for name in SETS:
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
        (tmp_path / f"{name}.decoding.json").write_text("{}")
    files = {name: str(tmp_path / f"{name}.jsonl") for name in SETS}
    assert outputs(f"x={tmp_path}") == outputs(f"x={tmp_path}/{{set}}.jsonl") == files
    assert outputs("x=kaldi:exp/{set}/text") == {name: f"kaldi:exp/{name}/text" for name in SETS}


def test_transcripts_of_one_set(tmp_path: Path) -> None:
    file = tmp_path / "hyp.csv"
    file.write_text("id,text\n")
    assert outputs(f"x={file},prediction=text", ("legal",)) == {"legal": f"{file},prediction=text"}
    assert outputs("x=trn:gone.trn", ("legal",)) == {"legal": "trn:gone.trn"}
    assert outputs(f"x={tmp_path}", ("legal",)) == {"legal": str(tmp_path)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("whisper", "'whisper': write each model as NAME=SOURCE"),
        ("=x", "the model name '' may hold only letters"),
        ("a.b=x", "the model name 'a.b' may hold only letters"),
        ("x=trn:hyp.trn", r"there are 2 sets \(legal, medical\): give a file for each, with {set} in the path"),
        ("x=embedded:nothing", "no such embedded base"),
    ],
)
def test_what_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_systems([text], SETS)


def test_two_models_of_one_name_and_none_at_all() -> None:
    with pytest.raises(ConfigError, match="two models are called 'x'"):
        parse_systems(["x=a/b", "x=c/d"], SETS)
    with pytest.raises(ConfigError, match="there is no model to evaluate"):
        parse_systems([], SETS)


def test_folders_that_hold_too_little_or_too_much(tmp_path: Path) -> None:
    (tmp_path / "legal.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"it has no config\.json of a model and no transcripts of the set 'medical'"):
        parse_systems([f"x={tmp_path}"], SETS)
    (tmp_path / "medical.jsonl").write_text("{}\n")
    (tmp_path / "medical.trn").write_text("a (b)\n")
    with pytest.raises(ConfigError, match="several files are called as the set 'medical'"):
        parse_systems([f"x={tmp_path}"], SETS)


def test_an_adapter_is_no_model_yet(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (system,) = parse_systems([f"x={tmp_path}"], SETS)
    with pytest.raises(CheckpointError, match="is an adapter: write it into full weights first"):
        check_loadable(system)
