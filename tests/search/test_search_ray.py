"""A search on a Ray cluster: real nodes on this machine, one of which is killed in the middle."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_search_command import given
from tiny_recognizers import make_models, make_utterances

from asrmerge.errors import CheckpointError, SearchError
from asrmerge.search import ray_pool
from asrmerge.search.candidate import fixed_candidates, scaled_sum
from asrmerge.search.evaluator import CandidateEvaluator
from asrmerge.search.ray_pool import RayPool
from asrmerge.search.scoring import ScoringJob
from asrmerge.speech.manifest import write_manifest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'asrmerge[ray]'")

EXPERTS = ("legal", "medical")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without processors, and a node with one."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    found.add_node(num_cpus=1)
    found.wait_for_nodes()
    yield found
    found.shutdown()


def test_a_node_is_killed_in_the_middle(cluster, tmp_path):
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    make_models(tmp_path, "ctc")
    for seed, name in enumerate(EXPERTS):  # enough to decode for the second worker to load its models meanwhile
        write_manifest(tmp_path / f"{name}.jsonl", make_utterances(tmp_path, name, [7.0 + index for index in range(5)], seed))

    def run(output: Path, *where: str) -> subprocess.Popen[str]:
        arguments = given(tmp_path, output, "--strategy", "random", "--candidates", "20", "--no-merge")
        arguments[arguments.index("--workers") : arguments.index("--workers") + 2] = where
        command = [sys.executable, "-m", "asrmerge.cli", *arguments]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    alone, together = tmp_path / "alone", tmp_path / "together"
    process, log = run(together, "--ray", cluster.address), ""
    assert process.stderr is not None
    while log.count("is ready") < 2:
        line = process.stderr.readline()
        assert line, log
        log += line
    cluster.remove_node(second, allow_graceful=False)
    log += process.communicate(timeout=180)[1]
    assert process.returncode == 0, log
    assert "whose task is done again" in log
    assert run(alone, "--workers", "1").wait() == 0
    assert (together / "trials.json").read_bytes() == (alone / "trials.json").read_bytes()
    assert len(json.loads((together / "trials.json").read_text())["trials"]) == 20


def test_transcripts_and_losses_are_those_of_this_machine(cluster, tmp_path, monkeypatch):
    base, experts = make_models(tmp_path, "whisper", frozen="model.encoder")
    # One is longer than the window: it has no encoder states that could be kept.
    audio = {"legal": make_utterances(tmp_path, "legal", [0.4, 0.7, 1.1, 31.0], 3)}
    monkeypatch.chdir(tmp_path)  # workers run elsewhere: relative paths must reach them as absolute ones
    given = (base.relative_to(tmp_path), {name: path.relative_to(tmp_path) for name, path in experts.items()}, audio)
    asked = [(candidate, 0) for candidate in fixed_candidates(EXPERTS, (0.4,))]
    asked.append((scaled_sum("broken", {"legal": float("nan"), "medical": 0.0}), 0))
    found = []
    for options in ({"ray": cluster.address, "workers": None}, {}):
        with CandidateEvaluator(*given, **options) as evaluate:
            for name in ("transcribe", "losses"):
                found.append([str(one) for one in getattr(evaluate, name)(asked)])
    assert found[:2] == found[2:] and "give a finite number" in found[0][-1]
    assert len(set(map(str, found[1]))) > 2


def until(evaluate: CandidateEvaluator, happened: Callable[[], bool]) -> None:
    """Evaluate merges until it has, for two minutes at most."""
    end, number = time.monotonic() + 120, 0
    while not happened() and time.monotonic() < end:
        evaluate(scaled_sum("merge", {"legal": number / 1000, "medical": 0.4}))
        number += 1


def test_nodes_that_join_are_used_but_those_that_cannot_load(cluster, tmp_path, monkeypatch, caplog):
    base, experts = make_models(tmp_path, "ctc")
    audio = {"legal": make_utterances(tmp_path, "legal", [3.0] * 4, 3)}
    monkeypatch.setattr(ray_pool, "_LOOK_SECONDS", 0.5)
    caplog.set_level("INFO", "asrmerge")
    with CandidateEvaluator(base, experts, audio, ray=cluster.address, workers=None) as evaluate:
        node = cluster.add_node(num_cpus=1)
        try:
            until(evaluate, lambda: caplog.text.count("is ready") == 2)
        finally:
            cluster.remove_node(node)
        pool = evaluate._pool
        pool._refuse(ray_pool._Worker(pool._actor.remote(), "10.0.0.9"), CheckpointError("medical is missing."))
        assert "on the node 10.0.0.9: medical is missing." in caplog.text and "The search goes on without it" in caplog.text
        evaluate(scaled_sum("merge", {"legal": 0.5, "medical": 0.5}))
    assert caplog.text.count("is ready") == 2


def test_a_model_that_a_node_cannot_read_is_named(cluster, tmp_path):
    job = ScoringJob(str(tmp_path / "none"), {}, (), "float32", "cpu", None, 60.0, {}, None)
    with pytest.raises(SearchError, match=r"on the node [\d.]+: .*none.*Every node reads models and audio itself"):
        RayPool(job, cluster.address, 1)


def test_no_room_ends_after_a_while(cluster, tmp_path):
    job = ScoringJob(str(tmp_path / "none"), {}, (), "float32", "cuda", None, 60.0, {}, None)
    with pytest.raises(SearchError, match="has had no room for a worker for 2 s: add nodes"):
        RayPool(job, cluster.address, 1, patience=2.0)


def test_no_cluster_is_said(tmp_path):
    job = ScoringJob(str(tmp_path), {}, (), "float32", "cpu", None, 60.0, {}, None)
    with pytest.raises(SearchError, match=r"there is no Ray cluster at '127\.0\.0\.1:1'.*ray start --head"):
        RayPool(job, "127.0.0.1:1")


def test_ray_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    job = ScoringJob(str(tmp_path), {}, (), "float32", "cpu", None, 60.0, {}, None)
    with pytest.raises(SearchError, match=r"pip install 'asrmerge\[ray\]', on every node"):
        RayPool(job, "auto")
