"""Fisher files of experts, read in the order of the vocabulary that a merge gives their heads."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import CTC_TOKENS, fine_tuned, save

from asrmerge.checkpoints import Checkpoint
from asrmerge.errors import CheckpointError, ConfigError, IncompatibleError
from asrmerge.merging import Recipe, merge_tensors
from asrmerge.merging.plan import plan_merge
from asrmerge.merging.units import Unit

HEAD = "lm_head.weight"


def expert(folder, seed, tokens):
    """A fine-tune with a head for these tokens, and the file of a Fisher diagonal that was computed with it."""
    model = fine_tuned("ctc", seed)
    torch.manual_seed(seed)
    model.lm_head = torch.nn.Linear(8, len(tokens))
    model.config.vocab_size, model.config.pad_token_id = len(tokens), tokens.index("<pad>")
    save(model, folder)
    (folder / "vocab.json").write_text(json.dumps({token: row for row, token in enumerate(tokens)}))
    checkpoint = Checkpoint.open(folder)
    shapes = {name.replace(".parametrizations.weight.original1", ".weight"): checkpoint.shape(name) for name in checkpoint.names}
    save_file({name: torch.rand(shape) + 0.5 for name, shape in shapes.items()}, folder / "fisher.safetensors")
    return checkpoint


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
