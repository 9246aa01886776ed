"""A run's configuration: every mistake named with its key and remedy, variables filled in, the shipped ones readable."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from asrmerge.config import RunConfig, read_config
from asrmerge.content import content_folder
from asrmerge.errors import ConfigError

MANIFESTS = {"train": "a.jsonl", "validation": "b.jsonl", "test": "c.jsonl"}
SPEECH = {"synthesize": {"domain": "legal"}}
PLAIN: dict[str, Any] = {"name": "mine", "output": "runs/mine", "base": "some/base", "domains": {"legal": MANIFESTS}}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in {**PLAIN, **changes}.items() if value is not None}))
    return path


def refusal(path: Path, definitions: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as raised:
        read_config(path, definitions)
    message = str(raised.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    config = read_config(write(tmp_path))
    assert (config.seed, config.device, config.precision, config.general) == (0, "cpu", "float32", None)
    assert config.finetune.freeze == "frontend" and config.search.trials is None and config.evaluation.normalizer == "whisper"
    assert config.domains["legal"].test == "c.jsonl"


def test_an_empty_section_has_its_defaults(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text() + "search:   # as it comes\nfinetune:\ngeneral:\n")
    assert read_config(path) == read_config(write(tmp_path))
    path.write_text(yaml.safe_dump(PLAIN | {"domains": {"legal": None}}))
    assert "'domains.legal' is None" in refusal(path)


def test_a_written_configuration_is_read_back_as_it_was(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, general=SPEECH, search={"curve": [0.5], "constraints": ["general.wer <= 0.2"]}))
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert read_config(tmp_path / "again.yaml") == config


@pytest.mark.parametrize("file", sorted(content_folder("configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_configuration_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a shipped file leaves to the user's environment is some path.
    for name in re.findall(r"\$\{([A-Za-z_]+)\}", file.read_text()):
        monkeypatch.setenv(name, "/somewhere")
    assert isinstance(read_config(file), RunConfig)


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml"])
def test_shipped_configurations_are_found_by_name_from_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = read_config(name)
    assert set(config.domains) == {"conversation", "technical", "medical", "legal"} and config.general is not None


def test_a_file_goes_before_a_shipped_one_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path).rename(tmp_path / "quickstart.yaml")
    assert read_config("quickstart.yaml").name == "mine"


@pytest.mark.parametrize("path", ["nothing.yaml", "wrong/folder/quickstart.yaml"])
def test_a_missing_file_is_refused_with_the_shipped_ones(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(Path(path))
    assert "no such configuration" in message and "quickstart.yaml" in message


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"serch": {"trials": 3}}, ["unknown key 'serch'", "did you mean 'search'"]),
        ({"search": {"trails": 3}}, ["unknown key 'search.trails'", "did you mean 'trials'"]),
        ({"domains": {"legal": {**MANIFESTS, "exprt": "x"}}}, ["unknown key 'domains.legal.exprt'", "did you mean 'expert'"]),
        (
            {"domains": {"legal": {"synthesize": {"domain": "legal", "trian": 3}}}},
            ["unknown key 'domains.legal.synthesize.trian'", "did you mean 'train'"],
        ),
        ({"finetune": {"lerning_rate": 1}}, ["unknown key 'finetune.lerning_rate'", "did you mean 'learning_rate'"]),
        ({"general": {**SPEECH, "expert": "x"}}, ["unknown key 'general.expert'"]),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(tmp_path: Path, changes: dict[str, Any], parts: list[str]) -> None:
    message = refusal(write(tmp_path, **changes))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"base": None}, "the key 'base' is missing; add it"),
        ({"domains": {}}, "'domains' is {}"),
        ({"workers": 0}, "'workers' is 0"),
        ({"precision": "float16"}, "'precision' is 'float16', but it should be 'auto', 'float32' or 'bfloat16'"),
        ({"search": {"trials": -1}}, "'search.trials' is -1"),
        ({"search": {"maximum_coefficient": float("inf")}}, "'search.maximum_coefficient' is inf"),
        ({"finetune": {"freeze": "decoder"}}, "'finetune.freeze' is 'decoder'"),
        ({"finetune": {"replay": 1.0}}, "'finetune.replay' is 1.0"),
        ({"finetune": {"steps": "many"}}, "'finetune.steps' is 'many'"),
        ({"domains": {"legal": {"train": "a", "validation": "b"}}}, "'validation' and 'test'"),
        ({"domains": {"legal": {"validation": "b", "test": "c"}}}, "give 'train' to fine-tune an expert, or 'expert'"),
        ({"domains": {"legal": {**MANIFESTS, **SPEECH}}}, "either manifests or 'synthesize', not both"),
        ({"general": {**SPEECH, "train": "a"}}, "either manifests for 'validation' and 'test', or 'synthesize'"),
        ({"general": {**SPEECH, "validation": "a"}}, "either manifests for 'validation' and 'test', or 'synthesize'"),
        ({"general": {"train": "a"}}, "either manifests for 'validation' and 'test', or 'synthesize'"),
        (
            {"joint": True, "domains": {"legal": {"validation": "b", "test": "c", "expert": "x"}}},
            "'joint' fine-tunes on every domain's training audio",
        ),
        ({"domains": ["legal"]}, "'domains' is ['legal']"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_should_be(tmp_path: Path, changes: dict[str, Any], part: str) -> None:
    message = refusal(write(tmp_path, **changes))
    assert part in message, message


@pytest.mark.parametrize("name", ["general", "base", "uniform", "merged", "joint"])
def test_names_that_the_report_uses_are_no_domains(tmp_path: Path, name: str) -> None:
    assert f"a domain cannot be called '{name}'" in refusal(write(tmp_path, domains={name: MANIFESTS}))


@pytest.mark.parametrize("name", ["a/b", "..", "", "a b", "-x", "ä"])
def test_domain_names_are_good_file_names(tmp_path: Path, name: str) -> None:
    assert "may hold only letters, digits" in refusal(write(tmp_path, domains={name: MANIFESTS}))


@pytest.mark.parametrize("content", ["", "- a", "just text", "name: [", b"\xff\xfe\x00"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refusal(path)


def test_a_missing_variable_is_named_with_both_remedies(tmp_path: Path) -> None:
    path = write(tmp_path, base="${NO_SUCH_FOLDER}/base")
    assert "'${NO_SUCH_FOLDER}' is not set; add --define NO_SUCH_FOLDER=VALUE or set it in the environment" in refusal(path)


@pytest.mark.parametrize(
    ("define", "environment", "expected"),
    [
        ({"BASE": "/defined"}, "/environment", "/defined/x"),
        ({}, "/environment", "/environment/x"),
        ({}, None, "/default/x"),
        ({"BASE": ""}, "/environment", "/x"),
    ],
)
def test_definitions_go_before_the_environment_and_that_before_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, define: dict[str, str], environment: str | None, expected: str
) -> None:
    monkeypatch.delenv("BASE", raising=False)
    if environment is not None:
        monkeypatch.setenv("BASE", environment)
    assert read_config(write(tmp_path, base="${BASE:-/default}/x"), define).base == expected


def test_variables_are_filled_in_at_any_depth(tmp_path: Path) -> None:
    manifests = {split: f"${{ROOT}}/{name}" for split, name in MANIFESTS.items()}
    config = read_config(
        write(tmp_path, domains={"legal": manifests}, search={"constraints": ["legal.wer <= ${LIMIT}"]}, seed="${SEED}"),
        {"ROOT": "/audio", "LIMIT": "0.5", "SEED": "7"},
    )
    assert config.domains["legal"].train == "/audio/a.jsonl"
    assert config.search.constraints == ("legal.wer <= 0.5",) and config.seed == 7


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_precision_is_what_the_processor_is_fast_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    config = read_config(write(tmp_path, precision="auto"))
    assert (config.precision, config.arithmetic) == ("auto", expected)
    assert read_config(write(tmp_path, precision="bfloat16")).arithmetic == "bfloat16"
