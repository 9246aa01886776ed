"""`asrmerge repair` on tiny models: moments of what it writes, heard by brute force, and what it leaves as it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import statistics_reference as statistics
from reference.layerwise import interpolated, output_moments
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCTC
from worlds import NAMES, PADDING_EVERY, World, loads_in_transformers, make_world, run_command

from asrmerge.merging.engine import merge_to_folder
from asrmerge.merging.recipe import Recipe, RecipeExpert
from asrmerge.progress import ProgressView
from asrmerge.repairing import repairing
from asrmerge.repairing.repairing import Repair, choose_models, repair_to_folder
from asrmerge.repairing.settings import RepairSettings
from asrmerge.speech.manifest import Utterance, write_manifest

FAMILIES = ("ctc", "whisper")
WIDE = {"lower": 1e-3, "upper": 1e3, "padding_every": PADDING_EVERY}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, World]:
    made = {family: make_world(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}
    for world in made.values():
        experts = tuple(RecipeExpert(name=name, model=str(world.experts[name])) for name in NAMES)
        merge_to_folder(Recipe(method="linear", base=str(world.base), experts=experts), merged_of(world))
        for name in NAMES:
            write_manifest(world.base.parent / f"{name}.jsonl", world.audio[name])
    return made


def merged_of(world: World) -> Path:
    return world.base.parent / "average"


def repair(
    world: World,
    output: Path,
    *,
    merged: Path | None = None,
    experts: Mapping[str, Path] | None = None,
    audio: Mapping[str, Sequence[Utterance]] | None = None,
    weights: Mapping[str, float] | None = None,
    **settings: Any,
) -> Repair:
    chosen = {name: str(folder) for name, folder in (experts or world.experts).items()}
    heard = audio or {name: world.audio[name] for name in chosen}
    models = choose_models(str(merged or merged_of(world)), chosen, heard, weights or {})
    return repair_to_folder(models, output, RepairSettings(**{**WIDE, **settings}), ProgressView())


def moments(world: World, folder: Path, domain: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return output_moments(world.load(folder), world.heard(domain))


def is_logits(name: str) -> bool:
    return name in ("lm_head", "proj_out")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_map_has_the_interpolated_moments(worlds: Mapping[str, World], family: str, tmp_path: Path) -> None:
    world = worlds[family]
    found = repair(world, tmp_path / "out", weights={"legal": 3.0, "medical": 1.0})
    shares = [0.75, 0.25]
    targets = interpolated([moments(world, world.experts[name], name) for name in NAMES], shares)
    before, after = (
        interpolated([moments(world, folder, name) for name in NAMES], shares) for folder in (merged_of(world), tmp_path / "out")
    )
    assert {one.name for one in found.maps} == {name for name in targets if not is_logits(name)} and not found.not_heard
    wrong = 0
    for one in found.maps:
        (mean, deviation), (own_mean, own_deviation) = targets[one.name], after[one.name]
        np.testing.assert_allclose(own_deviation, deviation, rtol=2e-3, err_msg=one.name)
        if one.has_bias:
            np.testing.assert_allclose(own_mean, mean, atol=2e-3 * deviation.max(), err_msg=one.name)
        wrong += float(np.abs(before[one.name][1] / deviation - 1).max()) > 0.05
    assert wrong > len(found.maps) / 2  # it was not so before


def test_keys_have_no_bias_and_are_only_scaled(worlds: Mapping[str, World], tmp_path: Path) -> None:
    world = worlds["whisper"]
    found = {one.name: one for one in repair(world, tmp_path / "out").maps}
    before, after = (load_file(folder / "model.safetensors") for folder in (merged_of(world), tmp_path / "out"))
    assert before.keys() == after.keys()
    keys = [name for name in found if name.endswith("k_proj")]
    assert len(keys) == 6 and {name for name, one in found.items() if not one.has_bias} == set(keys)
    for name in keys:
        ratio = after[f"{name}.weight"] / before[f"{name}.weight"]
        torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=1e-5)  # one factor for each unit
        factors = ratio.median(1).values
        assert float(factors.min()) == pytest.approx(found[name].least, rel=1e-3)
        assert float(factors.max()) == pytest.approx(found[name].greatest, rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("count", [1, 2])
def test_a_model_that_is_its_experts_stays(worlds: Mapping[str, World], family: str, count: int, tmp_path: Path) -> None:
    """Although the domains differ from each other: they are measured apart."""
    world = worlds[family]
    own = world.experts["legal"]
    found = repair(world, tmp_path / "out", merged=own, experts=dict.fromkeys(NAMES[:count], own))
    before, after = (statistics.plain_copy(world.load(folder)).state_dict() for folder in (own, tmp_path / "out"))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-5, atol=1e-5)
    assert all(one.least == pytest.approx(1, abs=1e-5) and one.greatest == pytest.approx(1, abs=1e-5) for one in found.maps)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_norms_and_embeddings_stay(worlds: Mapping[str, World], family: str, tmp_path: Path) -> None:
    world = worlds[family]
    found = repair(world, tmp_path / "out")
    before, after = (load_file(folder / "model.safetensors") for folder in (merged_of(world), tmp_path / "out"))
    repaired = {one.name for one in found.maps}
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {name.split(".parametrizations")[0].removesuffix(".weight").removesuffix(".bias") for name in changed} == repaired
    assert not any(is_logits(name) or "norm" in name or "embed_tokens" in name for name in changed)


def test_groups_and_parts_of_names(worlds: Mapping[str, World], tmp_path: Path) -> None:
    world = worlds["whisper"]
    found = repair(world, tmp_path / "out", groups=("encoder.1", "decoder.*.cross"), skip=("q_proj", "k_proj"))
    layer = "model.encoder.layers.1"
    cross = [f"model.decoder.layers.{number}.encoder_attn" for number in (0, 1)]
    assert sorted(one.name for one in found.maps) == sorted(
        [f"{layer}.self_attn.v_proj", f"{layer}.self_attn.out_proj", f"{layer}.fc1", f"{layer}.fc2"]
        + [f"{place}.{part}_proj" for place in cross for part in ("v", "out")]
    )
    head = repair(worlds["ctc"], tmp_path / "head", groups=("head",))
    assert [one.name for one in head.maps] == ["lm_head"]


@pytest.mark.parametrize("family", FAMILIES)
def test_units_are_clamped_and_dead_ones_left(worlds: Mapping[str, World], family: str, tmp_path: Path) -> None:
    world = worlds[family]
    place = "wav2vec2.encoder.layers.1.feed_forward.intermediate_dense" if family == "ctc" else "model.encoder.layers.1.fc1"
    state = load_file(merged_of(world) / "model.safetensors")
    state[f"{place}.weight"][3] = 0
    state[f"{place}.weight"][4] *= 100
    broken = copy_with(merged_of(world), tmp_path / "broken", state)
    found = repair(world, tmp_path / "out", merged=broken, lower=0.5, upper=2.0)
    after = load_file(tmp_path / "out" / "model.safetensors")
    report = next(one for one in found.maps if one.name == place)
    assert report.left_alone == 1 and report.clamped >= 1 and report.least == 0.5 and report.greatest <= 2
    assert not after[f"{place}.weight"][3].any() and after[f"{place}.bias"][3] == state[f"{place}.bias"][3]
    torch.testing.assert_close(after[f"{place}.weight"][4], 0.5 * state[f"{place}.weight"][4])


def copy_with(source: Path, target: Path, state: Mapping[str, torch.Tensor]) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    save_file(dict(state), target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("family", FAMILIES)
def test_the_command_writes_what_transformers_loads(worlds: Mapping[str, World], family: str, tmp_path: Path) -> None:
    world = worlds[family]
    options = ["--padding-every", "3", "--utterances", "2", "--weight", "legal=3", "--device", "cpu"]
    for name in ("one", "two"):
        code, out, error = run_command("repair", merged_of(world), tmp_path / name, *pairs(world), *options)
        assert code == 0, error
        assert "repaired: " in out and " linear maps, factors from " in out and f"merged model  {tmp_path / name}" in out
    files = {name: {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two")}
    assert files["one"] == files["two"] and "merge_recipe.yaml" not in files["one"]
    told = json.loads(files["one"]["merge_provenance.json"])
    assert told["method"] == "repair" and told["parameters"]["utterances"] == 2 and told["parameters"]["upper"] == 2.0
    assert told["model"]["provenance"]["method"] == "linear" and len(told["model"]["sha256"]) == 64
    assert [(one["name"], one["weight"]) for one in told["experts"]] == [("legal", 0.75), ("medical", 0.25)]
    assert told["audio"]["medical"]["utterances"] == 2 and told["not_heard"] == []
    assert {"name", "units", "least", "median", "greatest", "clamped", "left_alone", "has_bias"} == set(told["maps"][0])
    loads_in_transformers(family, tmp_path / "one")


def pairs(world: World, *, experts: Sequence[str] = NAMES, audio: Sequence[str] = NAMES) -> list[str]:
    given = [part for name in experts for part in ("--expert", f"{name}={world.experts[name]}")]
    return [*given, *(part for name in audio for part in ("--audio", f"{name}={world.base.parent / f'{name}.jsonl'}"))]


def test_an_expert_without_weight_has_no_part(worlds: Mapping[str, World], tmp_path: Path) -> None:
    world = worlds["ctc"]
    repair(world, tmp_path / "one", experts={"legal": world.experts["legal"]})
    repair(world, tmp_path / "two", weights={"medical": 0.0})
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_heads_of_other_vocabularies_stay_out(worlds: Mapping[str, World], tmp_path: Path) -> None:
    """A merge of experts with vocabularies of their own has one more row than this one."""
    world = worlds["ctc"]
    merged = tmp_path / "merged"
    copy_with(merged_of(world), merged, {})
    model = AutoModelForCTC.from_pretrained(merged_of(world))
    rows = model.config.vocab_size
    model.config.vocab_size = rows + 1
    old, model.lm_head = model.lm_head, torch.nn.Linear(16, rows + 1)
    with torch.no_grad():
        model.lm_head.weight[:rows] = old.weight
    model.save_pretrained(merged)
    tokens = json.loads((merged / "vocab.json").read_text())
    (merged / "vocab.json").write_text(json.dumps({**tokens, "j": rows}))
    for file in ("tokenizer.json",):
        (merged / file).unlink(missing_ok=True)
    assert len(repair(world, tmp_path / "out", merged=merged).maps) > 10
    given = [str(merged), str(tmp_path / "head"), *pairs(world), "--group", "head", "--device", "cpu"]
    code, _, error = run_command("repair", *given)
    assert code == 2 and "lm_head.weight has shape [13, 16]" in error and "leave the group 'head' out of the repair" in error


def test_bad_input_is_refused(worlds: Mapping[str, World], tmp_path: Path) -> None:
    world, other = worlds["whisper"], worlds["ctc"]
    silent = tmp_path / "silent.jsonl"
    lines = [{"audio_filepath": str(one.audio), "duration": one.duration, "text": ""} for one in world.audio["legal"]]
    silent.write_text("\n".join(map(json.dumps, lines)))
    without = [*pairs(world, audio=["medical"]), "--audio", f"legal={silent}"]
    out, merged = tmp_path / "out", merged_of(world)
    cases: list[tuple[Path, Path, list[str], str]] = [
        (merged, out, pairs(world, audio=["legal"]), "the expert medical has no audio: give --audio medical=CORPUS"),
        (merged, out, pairs(world, experts=["legal"]), "--audio medical: there is no expert of that name"),
        (merged, out, [*pairs(world), "--weight", "legel=1"], "--weight legel: there is no expert of that name"),
        (merged, out, [*pairs(world), "--weight", "legal=half"], "'half' is no number"),
        (merged, out, [*pairs(world), "--weight", "legal=-1"], "give a number of 0 or more"),
        (merged, out, [*pairs(world), "--weight", "legal=0", "--weight", "medical=0"], "averages with weights of 0 or more"),
        (merged, out, [*pairs(world), "--group", "encodr"], "no linear map of this model is in the group 'encodr'"),
        (merged, out, [*pairs(world), "--skip", "k_prj"], "no linear map of this model has 'k_prj' as a part of its name"),
        (merged, out, [*pairs(world), "--group", "frontend", "--skip", "encoder"], "all linear maps of these groups are skipped"),
        (merged, out, [*pairs(world), "--lower", "1.5"], "lower"),
        (merged, out, without, "the audio of legal has no texts, and a decoder must be fed what is said"),
        (merged, merged, pairs(world), "is or holds the input"),
        (merged, tmp_path, pairs(world), "holds something other than a checkpoint"),
        (merged_of(other), out, pairs(world), "config.json says model_type"),
        (tmp_path / "nothing", out, pairs(world), "nothing"),
    ]
    for model, output, given, message in cases:
        code, _, error = run_command("repair", model, output, *given, "--device", "cpu")
        assert code == 2 and message in error, (message, error)
    assert not out.exists()
    code, _, error = run_command("repair", merged, out, *without, "--group", "encoder", "--device", "cpu")
    assert code == 0, error  # encoders are not fed texts


def test_a_failure_leaves_the_earlier_output(
    worlds: Mapping[str, World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = worlds["ctc"]
    repair(world, tmp_path / "out")
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}

    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(repairing, "_tensors", stop)
    with pytest.raises(KeyboardInterrupt):
        repair(world, tmp_path / "out", upper=1.0)
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
