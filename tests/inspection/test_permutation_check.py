"""Fine-tunes keep their base's units in place; permuted copies and other trainings don't, and are told apart."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from tiny_models import edit_config, fine_tuned, save, tiny_model
from transformers import Data2VecAudioConfig, HubertConfig, WavLMConfig
from transformers.models.auto.modeling_auto import AutoModelForCTC

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.inspection import permutation
from asrmerge.inspection.findings import find, headline
from asrmerge.inspection.inspecting import inspect_models
from asrmerge.inspection.permutation import align, find_parts, match_part, match_units

CONFIGS = {"hubert": HubertConfig, "wavlm": WavLMConfig, "data2vec-audio": Data2VecAudioConfig}


def rows(seed, count, features):
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.floats(0, 0.1))
def test_a_permutation_is_found_without_solving(seed, count, noise):
    reference = rows(seed, count, 64) * torch.logspace(-1, 1, count)[:, None]  # long rows must not attract short ones
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    expert = reference[order] * (1 + noise * rows(seed + 1, count, 64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(permutation, "linear_sum_assignment", None)
        match = match_units(reference, expert)
    assert torch.equal(match.order, order) and match.solved
    assert match.matched_cosine > 0.98
    assert match.in_place == int((order == torch.arange(count)).sum())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_the_order_has_the_greatest_inner_product(seed, count):
    reference, expert = rows(seed, count, 3), rows(seed + 1, count, 3)
    match = match_units(reference, expert)
    products = (expert @ reference.T).double().numpy()
    best = max(products[np.arange(count), list(order)].sum() for order in permutations(range(count)))
    # What ties may cost: a hundredth of a percent of the mean squared norm for each unit.
    slack = 1e-4 * count * float(reference.square().sum(1).mean() + expert.square().sum(1).mean())
    assert products[np.arange(count), match.order.numpy()].sum() >= best - slack
    assert sorted(match.order.tolist()) == list(range(count))


def test_units_that_are_alike_stay():
    reference = rows(0, 12, 5)
    reference[3:6] = reference[3]
    reference[8:] = 0
    assert match_units(reference, reference.clone()).in_place == 12
    assert match_units(torch.zeros(4, 2), torch.zeros(4, 2)).in_place == 4
    assert match_units(reference, torch.zeros(12, 5)).cosine == 0


def test_unsolved_matches_say_so():
    reference, expert = rows(0, 40, 6), rows(1, 40, 6)
    match = match_units(reference, expert, solve=False)
    assert not match.solved and len(set(match.order.tolist())) < 40
    solved = match_units(reference, expert)
    products = (expert @ reference.T).numpy()
    assert solved.solved and solved.order.tolist() == linear_sum_assignment(-products)[1].tolist()


@pytest.mark.parametrize("family", ["ctc", "whisper"])
def test_parts_of_the_shipped_bases(family, embedded):
    checkpoint = embedded(family)
    parts = find_parts(checkpoint)
    encoder = [("encoder", layer, part) for layer in range(5) for part in ("ffn", "self")]
    decoder = [("decoder", layer, part) for layer in range(2) for part in ("ffn", "self", "cross")]
    assert [(part.stack, part.layer, part.part) for part in parts] == encoder + (decoder if family == "whisper" else [])
    assert {part.count for part in parts if part.kind == "heads"} == {4}
    assert {part.count for part in parts if part.kind == "units"} == {768 if family == "whisper" else 896}
    inside = {name for part in parts for name in (*part.inputs, *part.outputs)}
    left = {name for name in checkpoint.names if ".layers." in name} - inside
    assert all("norm" in name or name.endswith(("out_proj.bias", "output_dense.bias", "fc2.bias")) for name in left)


def shuffled(parts, seed=0):
    """A function that moves the units of all ``parts`` of a state dict, by random orders."""
    generator = torch.Generator().manual_seed(seed)

    def change(tensors):
        for part in parts:
            order = torch.randperm(part.count, generator=generator)
            tensors = align(tensors, part, order)
        return tensors

    return change


def logits(folder, family):
    model = type(tiny_model(family)).from_pretrained(folder).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        if family == "ctc":
            return model(torch.randn(1, 800, generator=generator)).logits
        features = torch.randn(1, 4, 20, generator=generator)
        return model(features, decoder_input_ids=torch.tensor([[3, 7, 9]])).logits


@pytest.mark.parametrize("family", ["ctc", "whisper"])
def test_alignment_undoes_a_permutation_that_changes_nothing(family, saved, altered):
    base = saved(fine_tuned(family, 5), "base")
    parts = find_parts(base)
    moved = altered(base.folder, "moved", shuffled(parts, seed=3))
    assert any(not torch.equal(base.read(name), moved.read(name)) for name in base.names)
    torch.testing.assert_close(logits(moved.folder, family), logits(base.folder, family), atol=1e-5, rtol=1e-4)
    tensors = {name: moved.read(name) for name in moved.names}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    aligned = tensors
    for part in parts:
        aligned = align(aligned, part, match_part(part, base.read, moved.read).order)
    assert all(torch.equal(aligned[name], base.read(name)) for name in base.names)
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)


def perturbed(seed, amount):
    def change(tensors):
        generator = torch.Generator().manual_seed(seed)
        noise = {name: torch.randn(value.shape, generator=generator) for name, value in tensors.items()}
        return {name: (value + amount * value.float().std() * noise[name]).to(value.dtype) for name, value in tensors.items()}

    return change


@pytest.mark.parametrize("family", ["ctc", "whisper"])
def test_verdicts_on_the_shipped_bases(family, embedded, altered):
    base = embedded(family)
    parts = find_parts(base)
    experts = {
        "tuned": altered(base.folder, "tuned", perturbed(1, 0.1)),
        "moved": altered(base.folder, "moved", lambda tensors: shuffled(parts[:2])(perturbed(2, 0.1)(tensors))),
        "stranger": altered(
            base.folder, "stranger", lambda tensors: {name: fresh(name, value) for name, value in tensors.items()}
        ),
    }
    found = inspect_models(base, experts)
    tuned, moved, stranger = found.base_checks
    assert (tuned.verdict, tuned.units, tuned.heads) == ("same base", 1.0, 1.0)
    assert (
        moved.verdict == "permutation"
        and "encoder layer 0" in moved.sentence
        and "align it before merging (asrmerge align)" in moved.sentence
    )
    assert moved.parts[0].cosine < 0.5 < 0.98 < moved.parts[0].matched_cosine and moved.parts[0].solved
    assert [part.in_place for part in moved.parts[2:]] == [part.count for part in moved.parts[2:]]
    assert stranger.verdict == "different base" and stranger.units < 0.02
    assert "not the same base" in stranger.sentence and "match another one" in stranger.sentence
    assert stranger.parts[0].solved and not all(part.solved for part in stranger.parts)
    assert headline(found) == "Not of one base: moved and stranger"
    assert [finding.tone for finding in find(found)][1:4] == ["good", "bad", "bad"]


def fresh(name, value):
    if not name.endswith("weight") or value.ndim < 2:
        return value
    return (torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name) + 7)) * value.float().std()).to(
        value.dtype
    )


@pytest.mark.parametrize("family", ["ctc", "whisper"])
def test_two_random_models_are_not_of_one_base(family, saved):
    base, tuned, other = tiny_model(family), fine_tuned(family, 1, 0.002), tiny_model(family, seed=9)
    found = inspect_models(saved(base, "base"), {"tuned": saved(tuned, "tuned"), "other": saved(other, "other")})
    assert [check.verdict for check in found.base_checks] == ["same base", "different base"]


def test_layers_initialised_anew(embedded, altered):
    base = embedded("ctc")

    def change(tensors):
        return {name: fresh(name, value) if ".layers.4." in name else value for name, value in tensors.items()}

    check = inspect_models(base, {"expert": altered(base.folder, "expert", change)}).base_checks[0]
    assert check.verdict == "different base" and "encoder layer 4" in check.sentence
    assert check.sentence.endswith("8 of 10 parts do match: were the others initialised anew?")


def test_permuted_heads_alone_are_noticed(embedded, altered):
    base = embedded("whisper")
    cross = [part for part in find_parts(base) if part.part == "cross"]
    expert = altered(base.folder, "expert", lambda tensors: align(tensors, cross[1], torch.tensor([1, 0, 3, 2])))
    check = inspect_models(base, {"expert": expert}).base_checks[0]
    assert check.verdict == "permutation" and "4 of 4 heads of the cross-attention of decoder layer 1" in check.sentence


def test_without_a_base_the_first_expert_is_the_reference(embedded, altered):
    first = embedded("ctc")
    others = {f"e{seed}": altered(first.folder, f"e{seed}", perturbed(seed, 0.05)) for seed in (1, 2)}
    found = inspect_models(None, {"e0": first, **others})
    assert [(check.expert, check.reference, check.verdict) for check in found.base_checks] == [
        ("e1", "e0", "same base"),
        ("e2", "e0", "same base"),
    ]
    assert found.reference == "mean" and found.frozen == {}
    assert any("No base was given" in finding.text and "−0.50" in finding.text for finding in find(found))


@pytest.mark.parametrize("model_type", CONFIGS)
def test_other_encoders_with_the_same_layers(model_type, tmp_path, altered):
    torch.manual_seed(0)
    small = {
        "vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
        "conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "conv_pos_kernel_size": 3,
    }  # fmt: skip
    base = Checkpoint.open(save(AutoModelForCTC.from_config(CONFIGS[model_type](**small)), tmp_path / "base"))
    parts = find_parts(base)
    assert [(part.layer, part.part, part.count) for part in parts] == [
        (layer, *part) for layer in range(2) for part in (("ffn", 24), ("self", 4))
    ]
    feed_forward = [part for part in parts if part.kind == "units"]
    check = inspect_models(base, {"e": altered(base.folder, "e", shuffled(feed_forward))}).base_checks[0]
    assert check.verdict == "permutation" and check.heads == 1.0


def test_unknown_layers_are_said_not_to_be_checked(saved):
    checkpoint = saved(tiny_model("ctc"), "model")
    edit_config(checkpoint.folder, model_type="sew")
    checkpoint = Checkpoint.open(checkpoint.folder)
    assert find_parts(checkpoint) == ()
    found = inspect_models(checkpoint, {"expert": checkpoint})
    assert found.base_checks[0].verdict == "unavailable" and "is not checked" in found.base_checks[0].sentence
    assert headline(found) == "One architecture; whether one base, can't be told"


def test_heads_that_do_not_divide_the_width_are_left_out(saved):
    checkpoint = saved(tiny_model("whisper"), "model")
    edit_config(checkpoint.folder, encoder_attention_heads=3)
    kinds = {(part.stack, part.kind) for part in find_parts(Checkpoint.open(checkpoint.folder))}
    assert kinds == {("encoder", "units"), ("decoder", "units"), ("decoder", "heads")}
