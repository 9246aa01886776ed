from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_recognizers import make_models, make_utterances

from asrmerge.errors import AudioError, CheckpointError, ConfigError, SearchError
from asrmerge.evaluation.counts import ErrorCounts, count_errors
from asrmerge.merging import merge_to_folder
from asrmerge.recognizers import load_recognizer
from asrmerge.search import Candidate, CandidateError, CandidateEvaluator, fixed_candidates, search_coefficients
from asrmerge.search.blocks import ALL_AT_ONCE, plan_audio
from asrmerge.search.scoring import Scorer, make_shards
from asrmerge.speech.audio import read_audio
from asrmerge.speech.manifest import Utterance

NAMES = ["legal", "medical"]
MERGE = Candidate("merge", "task_arithmetic", {"legal": 0.7, "medical": 0.4})


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Utterance]]:
    folder = tmp_path_factory.mktemp("audio")
    return {
        "legal": make_utterances(folder, "legal", [0.5, 0.9, 0.7, 0.6], 1),
        "medical": make_utterances(folder, "medical", [0.8, 1.4, 0.5], 2),  # one is longer than Whisper's window of a second
    }


@pytest.fixture(scope="module", params=["ctc", "whisper", "whisper with one encoder"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    family, _, one_encoder = request.param.partition(" with ")
    frozen = "model.encoder" if one_encoder else ""
    return make_models(tmp_path_factory.mktemp("models"), family, frozen=frozen)


@pytest.fixture(scope="module")
def ctc(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    return make_models(tmp_path_factory.mktemp("ctc"), "ctc")


def evaluate(models, validation, candidates, **options) -> list[dict[str, ErrorCounts]]:
    with CandidateEvaluator(*models, validation, **options) as evaluator:
        return [evaluator(candidate) for candidate in candidates]


def transcribed(folder: Path, validation) -> dict[str, ErrorCounts]:
    """The plain way: a model from disk, one utterance after the other."""
    recognizer = load_recognizer(folder)
    totals = {}
    for domain, utterances in validation.items():
        texts = [recognizer.transcribe([read_audio(one.audio)])[0] for one in utterances]
        counts = [count_errors(one.text, text) for one, text in zip(utterances, texts, strict=True)]
        totals[domain] = sum(counts, start=ErrorCounts())
    return totals


def test_counts_are_those_of_the_merges_on_disk_whatever_the_number_of_workers(models, validation, tmp_path):
    candidates = [*fixed_candidates(NAMES, []), MERGE]
    parts = {"normalizer": "none", "batch_seconds": 0.75}  # several shards a domain
    found = evaluate(models, validation, candidates, **parts)
    assert found == evaluate(models, validation, candidates, **parts, workers=2)
    assert len({tuple(counts.values()) for counts in found}) > 2
    base, experts = models
    for candidate, counts in zip(candidates, found, strict=True):
        recipe = candidate.recipe(base=str(base), models={name: str(folder) for name, folder in experts.items()})
        merge_to_folder(recipe, tmp_path / "merged")
        assert counts == transcribed(tmp_path / "merged", validation)


def test_an_unchanged_encoder_runs_once(tmp_path, validation, monkeypatch):
    models = make_models(tmp_path, "whisper", frozen="model.encoder")
    encoded: list[int] = []
    encode = Scorer.encode
    monkeypatch.setattr(Scorer, "encode", lambda self, shard: encoded.append(shard) or encode(self, shard))
    scratch = tmp_path / "scratch"
    with CandidateEvaluator(*models, validation, scratch=scratch) as evaluator:
        scorer = evaluator._pool._scorer
        assert list(scratch.iterdir()) == []  # mapped already, nothing is left behind by a kill
        encoder = scorer._recognizer.model.get_encoder()
        calls: list[int] = []
        encoder.register_forward_hook(lambda *_: calls.append(1))
        evaluator(MERGE)
        assert len(calls) == 1  # the utterance beyond the window, cut at its pause into pieces of one batch
    assert sorted(encoded) == [0, 1]


def test_order_of_candidates_does_not_matter(ctc, validation):
    base = fixed_candidates(NAMES)[0]
    first, second, again = evaluate(ctc, validation, [base, MERGE, base])
    assert first == again != second


def test_shards_keep_every_utterance_once():
    utterances = [Utterance(str(index), Path("x"), 1 + index % 50, "a") for index in range(100)]
    validation = {"a": utterances, "b": utterances[:1]}
    shards = make_shards(plan_audio(validation, fractions=ALL_AT_ONCE))
    assert sorted(one.identifier for shard in shards if shard.domain == "a" for one in shard.utterances) == sorted(
        one.identifier for one in utterances
    )
    assert max(shard.seconds for shard in shards) <= 120
    assert shards == make_shards(plan_audio({"a": utterances[::-1], "b": utterances[:1]}, fractions=ALL_AT_ONCE))
    assert len(make_shards(plan_audio(validation, fractions=ALL_AT_ONCE), batch_seconds=1e6)) == 2
    blocks = make_shards(plan_audio(validation, seed=3))
    assert sorted(one.identifier for shard in blocks for one in shard.utterances) == sorted(
        one.identifier for shard in shards for one in shard.utterances
    )
    assert {shard.look for shard in blocks} == {0, 1, 2, 3}


def test_looks_are_parts_of_the_whole_whatever_the_number_of_workers(models, tmp_path):
    validation = {
        "legal": make_utterances(tmp_path, "legal", [0.3 + 0.05 * index for index in range(12)], 3),
        "medical": make_utterances(tmp_path, "medical", [0.5, 0.7, 0.6], 4),
    }
    plan = plan_audio(validation, seed=2, fractions=(0.7, 1.0))
    asked = [(MERGE, 1), (fixed_candidates(NAMES)[0], 0), (MERGE, 0)]
    found = []
    for workers in (1, 2):
        with CandidateEvaluator(*models, plan, workers=workers, batch_seconds=1.25) as evaluator:
            found.append(evaluator.transcribe(asked))
    assert found[0] == found[1]
    assert [[len(texts[name]) for name in validation] for texts in found[0]] == [[4, 0], [8, 3], [8, 3]]
    with CandidateEvaluator(*models, validation) as evaluator:
        [whole] = evaluator.transcribe([(MERGE, 0)])
        heard = {one: text for name in validation for one, text in zip(evaluator.plan.block(name, 0), whole[name], strict=True)}
    for look, texts in ((1, found[0][0]), (0, found[0][2])):
        for name in validation:
            assert list(texts[name]) == [heard[one] for one in plan.block(name, look)]


def test_losses_are_those_of_the_merges_on_disk(models, validation, tmp_path):
    base, experts = models
    recipe = MERGE.recipe(base=str(base), models={name: str(folder) for name, folder in experts.items()})
    merge_to_folder(recipe, tmp_path / "merged")
    recognizer = load_recognizer(tmp_path / "merged")
    with CandidateEvaluator(*models, validation, workers=2) as evaluator:
        [found, again] = evaluator.losses([(MERGE, 0), (MERGE, 0)])
    assert str(found) == str(again)
    window = recognizer.window_seconds or 100.0
    for name in validation:
        for one, loss in zip(evaluator.plan.block(name, 0), found[name], strict=True):
            if one.duration > window:
                assert np.isnan(loss)
                continue
            batch = {**recognizer.features([read_audio(one.audio)]), "labels": recognizer.labels([one.text])}
            with torch.no_grad():
                expected = recognizer.negative_log_likelihoods(recognizer.logits(batch), batch, batch["labels"]).item()
            assert loss == pytest.approx(expected, rel=1e-4) and loss > 1


def test_threads_are_as_they_were(ctc, validation):
    before = torch.get_num_threads()
    evaluate(ctc, validation, [MERGE])
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("workers", [1, 2])
def test_weights_that_overflow_fail_the_candidate_only(workers, ctc, validation, tmp_path):
    base, experts = ctc
    models = base, {"legal": altered(experts["legal"], tmp_path / "altered", 1e10), "medical": experts["medical"]}
    with CandidateEvaluator(*models, validation, workers=workers) as evaluator:
        with pytest.raises(CandidateError, match="'huge' hold NaN or Inf"):
            evaluator(Candidate("huge", "task_arithmetic", {"legal": 1e36, "medical": 0.5}))
        with pytest.raises(CandidateError, match=r"'merge': the model's output is no number \(NaN\)"):
            evaluator(MERGE)
        assert evaluator(Candidate("sound", "task_arithmetic", {"legal": 0.0, "medical": 0.4})).keys() == {"legal", "medical"}


def altered(expert: Path, folder: Path, factor: float) -> Path:
    folder.mkdir()
    for file in expert.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    state = load_file(folder / "model.safetensors")
    save_file({name: tensor * factor for name, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_missing_audio_is_named(ctc, validation, tmp_path):
    gone = Utterance("gone", tmp_path / "gone.wav", 1.0, "a")
    with CandidateEvaluator(*ctc, {**validation, "general": [gone]}) as evaluator, pytest.raises(AudioError, match=r"gone\.wav"):
        evaluator(MERGE)


def test_what_cannot_be_evaluated_is_refused(ctc, validation, tmp_path):
    base, experts = ctc
    with pytest.raises(ConfigError, match="'medical' has no validation utterances"):
        CandidateEvaluator(base, experts, {**validation, "medical": []})
    with pytest.raises(ConfigError, match="at least one expert"):
        CandidateEvaluator(base, {}, validation)
    with pytest.raises(ConfigError, match="no text normaliser"):
        CandidateEvaluator(base, experts, validation, normalizer="nothing")
    with pytest.raises(CheckpointError, match="nowhere"), CandidateEvaluator(base, {"a": tmp_path / "nowhere"}, validation):
        pass
    with pytest.raises(SearchError, match="not open"):
        CandidateEvaluator(base, experts, validation)(MERGE)


def test_a_workers_error_at_the_start_arrives(ctc, validation, tmp_path):
    base, experts = ctc
    broken = altered(experts["legal"], tmp_path / "broken", float("nan"))
    with pytest.raises(CheckpointError, match="NaN"), CandidateEvaluator(base, {"a": broken}, validation, workers=2):
        pass
    assert not multiprocessing.active_children()


def test_a_workers_death_is_told_and_ends_the_others(ctc, validation):
    with CandidateEvaluator(*ctc, validation, workers=2) as evaluator:
        evaluator(MERGE)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        with pytest.raises(SearchError, match="was ended by SIGKILL: run the command again, with fewer workers"):
            evaluator(MERGE)
        assert not multiprocessing.active_children()
        with pytest.raises(SearchError, match="have been stopped"):
            evaluator(MERGE)


def test_an_interrupt_ends_the_workers(ctc, validation):
    with CandidateEvaluator(*ctc, validation, workers=2) as evaluator:
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGINT)  # as a terminal would
            os.kill(process.pid, signal.SIGSTOP)
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            with pytest.raises(KeyboardInterrupt):
                evaluator(MERGE)
        finally:
            for process in multiprocessing.active_children():
                process.kill()
    assert not multiprocessing.active_children()


PROGRAM = """
import sys, time
from pathlib import Path
from asrmerge.search import CandidateEvaluator, fixed_candidates
from asrmerge.speech.manifest import read_manifest

if __name__ == "__main__":
    root = Path(sys.argv[1])
    with CandidateEvaluator(root / "base", {"legal": root / "legal"}, {"a": read_manifest(sys.argv[2])}, workers=2) as evaluate:
        print(evaluate(fixed_candidates(["legal"])[1])["a"].words, flush=True)
        time.sleep(float(sys.argv[3]))
"""


def test_it_works_from_a_program_and_workers_do_not_outlive_it(ctc, validation, tmp_path):
    from asrmerge.speech.manifest import write_manifest

    write_manifest(tmp_path / "a.jsonl", validation["legal"])
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "program", str(ctc[0].parent), str(tmp_path / "a.jsonl"), "60"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "16\n"
        workers = _descendants(process.pid)
        process.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(_alive(pid) for pid in workers):
        time.sleep(0.1)
    assert not any(_alive(pid) for pid in workers)


def _descendants(pid: int) -> list[int]:
    """Children, and theirs: workers are a server's, which is the program's."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    children = [int(child) for child in listed.read_text().split()] if listed.exists() else []
    return [one for child in children for one in (child, *_descendants(child))]


def _alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_a_search_with_it(ctc, validation, tmp_path):
    def run(name: str, workers: int):
        with CandidateEvaluator(*ctc, validation, normalizer="none", workers=workers) as evaluator:
            return search_coefficients(evaluator, experts=NAMES, targets=NAMES, trials=12, curve=(0.3,), storage=tmp_path / name)

    result = run("one.log", 1)
    assert result == run("two.log", 2)
    assert result.best.objective <= min(trial.objective for trial in result.trials[:4])
