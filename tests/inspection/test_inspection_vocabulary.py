"""CTC experts with vocabularies of their own are compared by token, as they are merged."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_models import CTC_TOKENS, fine_tuned, save

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.inspection.findings import find
from asrmerge.inspection.inspecting import inspect_models
from asrmerge.inspection.result import Inspection


def with_tokens(folder, seed, tokens):
    """A fine-tune whose head has these tokens: rows of the base's own tokens are the base's plus noise of the seed."""
    model, base = fine_tuned("ctc", seed, 0.002), fine_tuned("ctc", 0, 0.0)
    generator = torch.Generator().manual_seed(seed)
    head = torch.nn.Linear(8, len(tokens))
    with torch.no_grad():
        for row, token in enumerate(tokens):
            known = CTC_TOKENS.index(token) if token in CTC_TOKENS else 0
            head.weight[row] = base.lm_head.weight[known] + 0.01 * torch.randn(8, generator=generator)
            head.bias[row] = base.lm_head.bias[known] + 0.01
    model.lm_head, model.config.vocab_size, model.config.pad_token_id = head, len(tokens), tokens.index("<pad>")
    save(model, folder)
    (folder / "vocab.json").write_text(json.dumps({token: row for row, token in enumerate(tokens)}))
    return Checkpoint.open(folder)


@pytest.fixture
def base(tmp_path):
    return Checkpoint.open(save(fine_tuned("ctc", 0, 0.0), tmp_path / "base"))


def test_rows_are_compared_with_those_of_the_same_token(base, tmp_path):
    one = with_tokens(tmp_path / "one", 1, CTC_TOKENS)
    moved = with_tokens(tmp_path / "moved", 1, CTC_TOKENS[::-1])
    both = [
        next(group for group in inspect_models(base, {"expert": expert}).groups if group.group == "head")
        for expert in (one, moved)
    ]
    for group, rows in zip(both, (one, moved), strict=True):
        order = [list(rows.vocabulary().values()).index(token) for token in CTC_TOKENS]
        difference = [rows.read(f"lm_head.{kind}")[order] - base.read(f"lm_head.{kind}") for kind in ("weight", "bias")]
        assert group.norms[0] == pytest.approx(float(torch.cat([part.flatten() for part in difference]).norm()), rel=1e-5)
    assert both[1].ratios[0] < 0.8


def test_tokens_of_one_expert(base, tmp_path):
    experts = {
        "legal": with_tokens(tmp_path / "legal", 1, [*CTC_TOKENS, "x", "y"]),
        "medical": with_tokens(tmp_path / "medical", 2, [token for token in CTC_TOKENS if token != "c"]),
    }
    found = inspect_models(base, experts)
    assert found.compatible and found.lacking_tokens == {"base": ("x", "y"), "legal": (), "medical": ("c", "x", "y")}
    texts = [finding.text for finding in find(found)]
    assert texts[0].startswith("One architecture: wav2vec2, ")
    assert texts[1] == (
        "The vocabularies differ, so the head's rows are matched by token, as in a merge (base lacks 'x' and 'y'; medical lacks "
        "'c', 'x' and 'y': such rows are borrowed, the base's if it has them)."
    )
    assert Inspection.model_validate_json(found.model_dump_json()) == found
    without = inspect_models(None, experts)
    assert without.compatible and without.lacking_tokens == {"legal": (), "medical": ("c", "x", "y")}


def test_one_vocabulary_is_not_mentioned(base, tmp_path):
    found = inspect_models(base, {"expert": with_tokens(tmp_path / "one", 1, CTC_TOKENS)})
    assert found.lacking_tokens == {} and "One architecture and vocabulary" in find(found)[0].text


def test_each_expert_that_does_not_fit_those_before_it(base, tmp_path):
    upper = with_tokens(tmp_path / "upper", 1, [*CTC_TOKENS[:3], *"ABCDEFGHI"])
    others = {"x": with_tokens(tmp_path / "x", 2, [*CTC_TOKENS, "x"]), "X": with_tokens(tmp_path / "X", 3, [*CTC_TOKENS, "X"])}
    found = inspect_models(base, {"upper": upper, **others})
    assert set(found.incompatible) == {"upper", "X"} and all("in another case" in text for text in found.incompatible.values())
    assert "the vocabulary of x (" in found.incompatible["X"] and found.overall is None
