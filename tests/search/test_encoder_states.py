"""Candidates with the same encoder share its states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_recognizers import make_models, make_utterances

from asrmerge.merging import merge_to_folder
from asrmerge.recognizers import load_recognizer
from asrmerge.search import Candidate
from asrmerge.search.blocks import ALL_AT_ONCE, plan_audio
from asrmerge.search.encoder_states import EncoderStates, module_digest
from asrmerge.search.scoring import Scorer, ScoringJob, make_shards
from asrmerge.speech.audio import read_audio


def merged(encoder: float, decoder: float) -> Candidate:
    weights = {"legal": encoder, "medical": encoder / 2}
    own = {"legal": decoder, "medical": decoder}
    return Candidate(f"{encoder}, {decoder}", "task_arithmetic", weights, groups={"decoder": own})


@pytest.mark.parametrize("frozen", ["", "model.encoder"])
def test_the_encoder_runs_once_for_each_of_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: str) -> None:
    base, experts = make_models(tmp_path, "whisper", frozen=frozen)
    utterances = make_utterances(tmp_path, "legal", [0.5, 0.9, 1.3], 1)  # the last is longer than the window
    shards = make_shards(plan_audio({"legal": utterances}, fractions=ALL_AT_ONCE))
    given = {name: str(path) for name, path in experts.items()}
    scorer = Scorer(ScoringJob(str(base), given, shards, "float32", "cpu", None, 60.0, {}, None))
    run: list[int] = []
    encode = scorer._encode
    monkeypatch.setattr(scorer, "_encode", lambda shard: run.append(shard) or encode(shard))
    candidates = [merged(0.7, 0.2), merged(0.7, 0.9), merged(0.1, 0.9), merged(0.7, 0.2)]
    found = []
    for candidate in candidates:
        found.append(scorer.transcribe(candidate, 0))
        scorer.losses(candidate, 0)
    assert len(run) == (1 if frozen else 2)
    assert found[0] == found[3] and len(set(map(tuple, found))) > 1
    for candidate, texts in zip(candidates, found, strict=True):
        merge_to_folder(candidate.recipe(base=str(base), models=given), tmp_path / "merged")
        recognizer = load_recognizer(tmp_path / "merged")
        by_name = {one.identifier: recognizer.transcribe([read_audio(one.audio)])[0] for one in utterances}
        assert texts == [by_name[one.identifier] for one in shards[0].utterances]


def test_what_has_not_been_used_for_longest_goes_first() -> None:
    states, computed = EncoderStates(limit=100), []

    def get(encoder: str) -> torch.Tensor:
        return states.get(encoder, 0, lambda: computed.append(encoder) or torch.zeros(10))

    for encoder in "aba":  # 40 bytes each
        get(encoder)
    assert computed == ["a", "b"]
    get("c")
    get("a")
    get("b")
    assert computed == ["a", "b", "c", "b"]


def test_a_digest_tells_every_bit() -> None:
    module = torch.nn.Linear(3, 2)
    before = module_digest(module)
    assert before == module_digest(module)
    with torch.no_grad():
        module.bias[1] = torch.nextafter(module.bias[1], torch.tensor(9.0))
    assert module_digest(module) != before
    assert module_digest(torch.nn.Linear(3, 2).bfloat16()) != before
