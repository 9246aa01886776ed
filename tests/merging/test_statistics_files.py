"""Statistics files of experts: those that do not fit are refused, rows follow the vocabulary that a merge gives the heads."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import CTC_TOKENS, fine_tuned, save
from tiny_statistics import add_statistics, load

from asrmerge.checkpoints import Checkpoint
from asrmerge.errors import CheckpointError, ConfigError, IncompatibleError
from asrmerge.merging import Recipe, merge_tensors
from asrmerge.merging.artefact import Header, write_statistics
from asrmerge.merging.plan import plan_merge
from asrmerge.merging.units import Unit

HEAD = "lm_head.weight"


def expert(folder, seed, tokens):
    """A fine-tune with a head for these tokens, and the files of the statistics that were collected of it."""
    model = fine_tuned("ctc", seed)
    torch.manual_seed(seed)
    model.lm_head = torch.nn.Linear(8, len(tokens))
    model.config.vocab_size, model.config.pad_token_id = len(tokens), tokens.index("<pad>")
    save(model, folder)
    (folder / "vocab.json").write_text(json.dumps({token: row for row, token in enumerate(tokens)}))
    return Checkpoint.open(add_statistics(folder, seed))


def recipe(checkpoints, **changes):
    experts = [
        {"name": name, "model": str(one.folder), "fisher": str(one.folder / "fisher.safetensors")} | changes.get(name, {})
        for name, one in checkpoints.items()
    ]
    return Recipe.model_validate({"method": "fisher_karcher", "experts": experts})


@pytest.fixture
def experts(tmp_path):
    tokens = {"a": CTC_TOKENS, "b": [*reversed(CTC_TOKENS), "q"]}
    return {name: expert(tmp_path / name, seed, tokens[name]) for seed, name in enumerate("ab", start=1)}


def test_rows_follow_their_tokens(experts):
    plan = plan_merge(recipe(experts), None, [*experts.values()])
    tokens = [plan.experts[0].vocabulary()[row] for row in range(len(CTC_TOKENS) + 1)]
    for fisher, (name, checkpoint) in zip(plan.statistics, experts.items(), strict=True):
        own = {token: row for row, token in checkpoint.vocabulary().items()}
        for parameter in (HEAD, "lm_head.bias"):
            stored, spread = fisher.files["fisher"].reader.read(parameter), fisher.fisher(Unit(parameter, (parameter,)))
            assert spread.shape == plan.experts[0].shape(parameter)
            for row, token in enumerate(tokens):
                assert torch.equal(spread[row], stored[own[token]] if token in own else torch.zeros_like(spread[row])), name
            assert torch.equal(fisher.fisher_elements(parameter, 3, 9), spread.flatten()[3:9])
        other = "wav2vec2.encoder.layer_norm.weight"
        assert torch.equal(fisher.fisher_elements(other, 2, 5), fisher.files["fisher"].reader.read(other)[2:5])
    merged = dict(merge_tensors(recipe(experts), None, [*experts.values()]))
    assert merged[HEAD].shape == (len(CTC_TOKENS) + 1, 8) and bool(torch.isfinite(merged[HEAD]).all())


def test_files_that_do_not_fit(experts, tmp_path):
    def refused(message, error=IncompatibleError, **changes):
        with pytest.raises(error, match=message):
            plan_merge(recipe(experts, **changes), None, [*experts.values()])

    refused("none.safetensors, the fisher of the expert b, does not exist", CheckpointError, b={"fisher": "none.safetensors"})
    file = experts["b"].folder / "fisher.safetensors"
    save_file({HEAD: torch.ones(3, 8)}, file)
    refused(rf"{file} has no tensor .*: compute the Fisher of the expert b again")
    names = {planned.unit.name: planned.shape for planned in plan_merge(
        Recipe.model_validate({"method": "linear", "experts": [{"name": "b", "model": "b"}]}), None, [experts["b"]]
    ).units}  # fmt: skip
    save_file({name: torch.ones(shape) for name, shape in names.items()} | {HEAD: torch.ones(3, 8)}, file)
    refused(rf"{HEAD} has shape \[3, 8\] in {file} and \[13, 8\] in the model")
    with pytest.raises(ConfigError, match="needs the fisher of each expert"):
        recipe(experts, b={"fisher": None}).check()


# Gram matrices and factors


def squares(checkpoints, method="mats", **changes):
    experts = [{"name": name, "model": str(one.folder), "statistics": str(one.folder)} for name, one in checkpoints.items()]
    return Recipe.model_validate({"method": method, "experts": experts} | changes)


def test_factors_follow_their_tokens_and_grams_have_none(experts):
    plan = plan_merge(squares(experts), None, [*experts.values()])
    head = next(planned.unit for planned in plan.units if planned.unit.name == HEAD)
    assert head.members == (HEAD, "lm_head.bias")
    tokens = [plan.experts[0].vocabulary()[row] for row in range(len(CTC_TOKENS) + 1)]
    for found, checkpoint in zip(plan.statistics, experts.values(), strict=True):
        own = {token: row for row, token in checkpoint.vocabulary().items()}
        stored, factor = load(checkpoint.folder, "factors")["lm_head"], found.factor(head)
        assert factor.shape == (len(tokens), len(tokens))
        for row, one in enumerate(tokens):
            for column, other in enumerate(tokens):
                known = one in own and other in own
                assert factor[row, column] == (stored[own[one], own[other]] if known else 0)
        assert torch.equal(found.gram(head), load(checkpoint.folder, "grams")["lm_head"])
        bare = Unit(HEAD, (HEAD,), affine=True)  # a rule of the recipe may leave the bias alone: x without its one
        assert torch.equal(found.gram(bare), load(checkpoint.folder, "grams")["lm_head"][:-1, :-1])
    for method in ("regmean", "mats"):
        merged = dict(merge_tensors(squares(experts, method), None, [*experts.values()]))
        assert merged[HEAD].shape == (len(CTC_TOKENS) + 1, 8) and bool(torch.isfinite(merged[HEAD]).all())


def test_maps_that_share_their_inputs_share_a_gram_matrix(experts):
    """One Gram matrix is stored for q, k and v; the header says under whose name."""
    layer = "wav2vec2.encoder.layers.0.attention"
    folder = experts["a"].folder
    grams, own = load(folder, "grams"), experts["a"].hash()
    for part in ("k_proj", "v_proj"):
        del grams[f"{layer}.{part}"]
    shares = {f"{layer}.{part}": f"{layer}.q_proj" for part in ("k_proj", "v_proj")}
    header = Header(kind="grams", units="", model="a", model_sha256=own, utterances=3, shares=shares)
    write_statistics(folder / "grams.safetensors", grams, header)
    plan = plan_merge(squares(experts, "regmean"), None, [*experts.values()])
    for planned in plan.units:
        if planned.unit.name in (f"{layer}.k_proj.weight", f"{layer}.q_proj.weight"):
            assert torch.equal(plan.statistics[0].gram(planned.unit), grams[f"{layer}.q_proj"])


def test_squares_that_do_not_fit(experts):
    def refused(message, error=IncompatibleError, method="mats"):
        with pytest.raises(error, match=message):
            plan_merge(squares(experts, method), None, [*experts.values()])

    folder, own = experts["b"].folder, experts["b"].hash()
    for kind, wrong, right in (("grams", 8, 9), ("factors", 12, 13)):
        path, found = folder / f"{kind}.safetensors", load(folder, kind)
        save_file(found | {"lm_head": torch.eye(wrong)}, path)
        refused(rf"lm_head has shape \[{wrong}, {wrong}\] in {path} and should have \[{right}, {right}\], as {HEAD} has")
        path.unlink()
        refused(f"{path}, the {kind} of the expert b, does not exist: .*asrmerge stats --kind {kind}", CheckpointError)

        def header(whose, path=path, found=found, kind=kind):
            write_statistics(path, found, Header(kind=kind, units="", model="old", model_sha256=whose, utterances=3))

        header("0" * 64)
        refused(f"{path} was computed on old, other weights than .*, the expert b: compute the statistics of this model again")
        header(own)
    plan_merge(squares(experts), None, [*experts.values()])
    (folder / "grams.safetensors").write_bytes((folder / "factors.safetensors").read_bytes())
    refused(f"{folder / 'grams.safetensors'} holds factors, not the grams of the expert b: correct the recipe", method="regmean")
    with pytest.raises(ConfigError, match="mats needs the grams and factors of each expert; add the key 'statistics' to a"):
        Recipe.model_validate({"method": "mats", "experts": [{"name": "a", "model": "a", "fisher": "f"}]}).check()


def test_statistics_of_the_base_are_its_own(experts):
    base = experts["a"]
    for kind, message in (
        ("of_b", "was computed on b, other weights than .*, the base"),
        ("none", "the fisher of the base, does"),
    ):
        made = squares({"b": experts["b"]}, "ugm", base=str(base.folder), base_statistics=str(base.folder / kind))
        if kind == "of_b":
            header = Header(kind="fisher", units="", model="b", model_sha256=experts["b"].hash(), utterances=3)
            (base.folder / kind).mkdir()
            write_statistics(base.folder / kind / "fisher.safetensors", load(base.folder, "fisher"), header)
        with pytest.raises(CheckpointError, match=message):
            plan_merge(made, base, [experts["b"]])
