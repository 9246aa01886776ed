"""`asrmerge merge` of a recipe whose weights, not coefficients, are learnt: what is written, what loads, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from worlds import NAMES, World, loads_in_transformers, make_world, run_command

from asrmerge.errors import ConfigError
from asrmerge.learning import merging
from asrmerge.learning.recipe import LearningRecipe
from asrmerge.speech.manifest import write_manifest

FAMILIES = ("ctc", "whisper")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, World]:
    made = {family: make_world(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}
    for world in made.values():
        for name in NAMES:
            write_manifest(world.base.parent / f"{name}.jsonl", world.audio[name])
    return made


def recipe_of(world: World, path: Path, **changes: Any) -> Path:
    experts = [
        {"name": name, "model": str(world.experts[name]), "audio": str(world.base.parent / f"{name}.jsonl")} for name in NAMES
    ]
    content = {"method": "regmean_plus_plus", "base": str(world.base), "experts": experts, "device": "cpu", **changes}
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_written_with_how_they_were_learnt(worlds: Mapping[str, World], family: str, tmp_path: Path) -> None:
    world = worlds[family]
    recipe = recipe_of(world, tmp_path / "recipe.yaml", parameters={"alpha": 0.7, "padding_every": 3}, seed=4)
    for name in ("one", "two"):
        code, out, error = run_command("merge", recipe, tmp_path / name)
        assert code == 0, error
        assert "regmean_plus_plus: " in out and " linear maps in " in out and f"merged model  {tmp_path / name}" in out
    files = {name: {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two")}
    told = json.loads(files["one"].pop("learned.json"))
    files["two"].pop("learned.json")
    assert files["one"] == files["two"] and "merge_recipe.yaml" not in files["one"]
    assert told["recipe"]["parameters"] == {
        "scale": 1.0, "alpha": 0.7, "jitter": 1e-06, "padding_every": 3, "utterances": None,
    }  # fmt: skip
    assert "held_out" not in told["recipe"] and told["audio"]["legal"]["held_out"] == 0
    assert told["audio"]["legal"]["learnt_from"] == 3 and told["audio"]["medical"]["learnt_from"] == 4
    last = [one for one in told["stages"] if one["utterances"]][-1]
    assert last["utterances"] == 7 and last["maps"] >= 1 and last["fewest_positions"] > 10 and last["seconds"] >= 0
    provenance = json.loads(files["one"]["merge_provenance.json"])
    assert provenance["method"] == "regmean_plus_plus" and provenance["recipe_sha256"] == told["recipe_sha256"]
    assert [one["weight"] for one in provenance["experts"]] == [1, 1] and len(provenance["base"]["sha256"]) == 64
    base, merged = (load_file(folder / "model.safetensors") for folder in (world.base, tmp_path / "one"))
    assert base.keys() == merged.keys() and {value.dtype for value in merged.values()} == {value.dtype for value in base.values()}
    expected = learnt(world)
    for name, value in expected.items():
        assert value.equal(merged[name]), name
    assert all(merged[name].equal(base[name]) for name in merged.keys() - expected.keys())
    again = LearningRecipe.from_content(yaml.safe_load(LearningRecipe.from_content(told["recipe"]).to_yaml()))
    assert again.hash() == told["recipe_sha256"]


def learnt(world: World) -> dict[str, Any]:
    method = merging.get_learning_method("regmean_plus_plus")
    session = world.session()
    session.seed = 4
    return dict(method.learn(session, method.parameters(alpha=0.7, padding_every=3)).tensors)


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_transformers_loads_it(worlds: Mapping[str, World], family: str, tmp_path: Path) -> None:
    recipe = recipe_of(worlds[family], tmp_path / "recipe.yaml", dtype="bfloat16", donor="medical", parameters={"utterances": 1})
    assert run_command("merge", recipe, tmp_path / "out")[0] == 0
    assert {str(tensor.dtype) for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {"torch.bfloat16"}
    loads_in_transformers(family, tmp_path / "out")


def test_one_utterance_of_each_domain_is_enough(worlds: Mapping[str, World], tmp_path: Path) -> None:
    world = worlds["ctc"]
    for name in NAMES:
        write_manifest(tmp_path / f"{name}.jsonl", world.audio[name][:1])
    experts = [{"name": one, "model": str(world.experts[one]), "audio": str(tmp_path / f"{one}.jsonl")} for one in NAMES]
    code, _, error = run_command("merge", recipe_of(world, tmp_path / "recipe.yaml", experts=experts), tmp_path / "out")
    assert code == 0, error


def test_bad_recipes_are_refused(worlds: Mapping[str, World], tmp_path: Path) -> None:
    world = worlds["whisper"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"held_out": 0.3}, "held_out: regmean_plus_plus learns from all of the audio; leave the key out"),
        ({"parameters": {"alpha": 1.1}}, "alpha"),
        ({"parameters": {"steps": 10}}, "unknown key 'steps'"),
        ({"audio": {"general": str(world.base.parent / "legal.jsonl")}}, "the audio of general has no expert to be near to"),
        ({"base": str(worlds["ctc"].base)}, "config.json says model_type"),
    ]
    for changes, message in cases:
        code, _, error = run_command("merge", recipe_of(world, tmp_path / "recipe.yaml", **changes), tmp_path / "out")
        assert code == 2 and message in error, (message, error)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="held_out"):
        LearningRecipe.from_content(yaml.safe_load(recipe_of(world, tmp_path / "r.yaml", held_out=0.3).read_text()))


def test_a_failure_leaves_the_earlier_output(
    worlds: Mapping[str, World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(worlds["ctc"], tmp_path / "recipe.yaml")
    assert run_command("merge", recipe, tmp_path / "out")[0] == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}

    def stop(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    for place in ("write_weights", "write_json"):
        with monkeypatch.context() as patched:
            patched.setattr(merging, place, stop)
            assert run_command("merge", recipe, tmp_path / "out")[0] == 130
        assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "recipe.yaml"]


def test_it_is_listed_and_explained() -> None:
    code, out, _ = run_command("methods")
    line = next(line for line in out.splitlines() if line.strip().startswith("regmean_plus_plus"))
    assert code == 0 and "(needs a base and audio)" in line
    code, out, _ = run_command("methods", "regmean_plus_plus")
    assert code == 0 and "2508.03121" in out and "utterances: " in out and "alpha: float ≥ 0.0 and ≤ 1.0, default 0.9" in out
