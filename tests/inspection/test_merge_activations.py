"""Activations of merges beside their experts': figures against all values at once, and layers that really collapse."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from activations import effective_rank, quiet_share, total_variance
from hypothesis import given, settings
from hypothesis import strategies as st
from listeners import LAYERS, Listeners, inline_statistics, make_listeners
from torch import Tensor

from asrmerge.errors import ConfigError, IncompatibleError, StatisticsError
from asrmerge.inspection.activations import Activations, compare_activations, read_activations
from asrmerge.inspection.diagnosis import Diagnosis
from asrmerge.merging.artefact import write_tensors
from asrmerge.pipeline import diagnostics
from asrmerge.progress import ProgressView
from asrmerge.speech.audio import read_utterance
from asrmerge.statistics.settings import StatisticsSettings
from asrmerge.statistics.subject import load_subject

SETTINGS = StatisticsSettings(kinds=("activations",), padding_every=0)
Diagnose = Callable[..., Diagnosis]


@pytest.fixture(scope="module", params=["ctc", "whisper"])
def listeners(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Listeners:
    return make_listeners(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def diagnose(listeners: Listeners, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Diagnose:
    """The diagnosis of a folder's model; statistics are collected in this process."""
    monkeypatch.setattr(diagnostics, "run_statistics", inline_statistics)

    def run(merged: Path, *, base: bool = True, experts: Mapping[str, Path] | None = None) -> Diagnosis:
        named = {name: str(folder) for name, folder in (experts or listeners.experts).items()}
        start = str(listeners.base) if base else None
        found = diagnostics.diagnose_merges(
            {"m": str(merged)}, named, start, listeners.audio, tmp_path, SETTINGS, workers=1, view=ProgressView()
        )
        return found["m"]

    return run


def heard(listeners: Listeners, folder: Path, domain: str) -> dict[str, np.ndarray]:
    """Outputs of everything inside of layers [positions, units]: every utterance by itself, cut to its own positions."""
    recognizer = load_subject(str(folder)).recognizer
    rows: dict[str, list[np.ndarray]] = {}
    for utterance in listeners.audio[domain]:
        samples = read_utterance(utterance, 16_000)
        labels = recognizer.labels([utterance.text])
        frames = math.ceil(math.ceil(len(samples) / 160) / 2)  # Whisper's, of 10 ms each, two by two

        def keep(name: str, frames: int = frames, tokens: int = labels.shape[1]) -> Callable[..., None]:
            inside_decoder = "decoder." in name and not name.endswith(("encoder_attn.k_proj", "encoder_attn.v_proj"))
            limit = None if listeners.family == "ctc" else tokens if inside_decoder else frames

            def hook(_: object, __: object, output: object) -> None:
                value = output[0] if isinstance(output, tuple) else output
                rows.setdefault(name, []).append(value[0, :limit].double().numpy())

            return hook

        named = {name: module for name, module in recognizer.model.named_modules() if "coder.layers." in name}
        chosen = {name: one for name, one in named.items() if isinstance(one, torch.nn.Linear) or name[-1].isdigit()}
        handles = [module.register_forward_hook(keep(name)) for name, module in chosen.items()]
        with torch.no_grad():
            recognizer.logits({**recognizer.features([samples]), "labels": labels})
        for handle in handles:
            handle.remove()
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def test_figures_are_those_of_all_values_at_once(listeners: Listeners, diagnose: Diagnose) -> None:
    states = [listeners.state(name) for name in listeners.experts]
    merged = listeners.write("average", {key: (states[0][key] + states[1][key]) * 0.3 for key in states[0]})
    found = diagnose(merged)
    domains = list(listeners.experts)
    own = {domain: heard(listeners, merged, domain) for domain in domains}
    theirs = {domain: heard(listeners, listeners.experts[domain], domain) for domain in domains}
    assert tuple(layer.layer for layer in found.layers) == LAYERS[listeners.family]
    some_quiet = 0.0
    for layer in found.layers:
        stack, number = layer.layer.split(".")
        module = next(name for name in own["legal"] if name.endswith(f"{stack}.layers.{number}"))
        variances = [[total_variance(side[domain][module]) for domain in domains] for side in (own, theirs)]
        ranks = [[effective_rank(side[domain][module]) for domain in domains] for side in (own, theirs)]
        assert layer.variance_ratio == pytest.approx(sum(variances[0]) / sum(variances[1]), rel=1e-4)
        assert layer.effective_rank == pytest.approx(np.mean(ranks[0]), rel=1e-4)
        assert layer.rank_ratio == pytest.approx(sum(ranks[0]) / sum(ranks[1]), rel=1e-4)
        for domain, *figures in zip(domains, *variances, *ranks, strict=True):
            one = layer.domains[domain]
            shown = (one.variance, one.expert_variance, one.effective_rank, one.expert_effective_rank)
            assert shown == pytest.approx(figures, rel=1e-4)
        maps = [name for name in own["legal"] if name.startswith(f"{module}.")]
        assert len(maps) == (10 if stack == "decoder" else 6)
        quiet = {
            name: quiet_share([own[domain][name] for domain in domains], [theirs[domain][name] for domain in domains])
            for name in maps
        }
        widths = [own["legal"][name].shape[1] for name in maps]
        assert layer.quiet_units == pytest.approx(np.average([quiet[name] for name in maps], weights=widths))
        assert layer.quietest_units == pytest.approx(max(quiet.values()))
        if layer.quietest_map is not None:
            assert quiet[f"{module}.{layer.quietest_map}"] == max(quiet.values())
        some_quiet = max(some_quiet, layer.quiet_units)
    assert 0 < some_quiet < 1
    assert found.utterances == dict.fromkeys(domains, 5)


def test_an_expert_beside_itself_is_the_same(listeners: Listeners, diagnose: Diagnose) -> None:
    expert = listeners.experts["legal"]
    found = diagnose(expert, experts=dict.fromkeys(listeners.experts, expert))
    for layer in found.layers:
        assert (layer.variance_ratio, layer.rank_ratio, layer.norm_ratio, layer.task_vector_ratio) == pytest.approx((1,) * 4)
        assert (layer.quiet_units, layer.quietest_map) == (0.0, None)
    assert found.sentence == ("No layer collapses: variances are 100\u00a0% of the experts', effective ranks 100\u00a0%.")
    assert found.tone == "good"


def test_half_of_all_weights_collapse_from_the_first_layer(listeners: Listeners, diagnose: Diagnose) -> None:
    found = diagnose(listeners.altered("halved", lambda name, value: value * 0.5))
    layers = LAYERS[listeners.family]
    assert [layer.layer for layer in found.layers if layer.collapsed] == list(layers)
    assert found.sentence.startswith(f"Activations collapse in all {len(layers)} layers") and found.tone == "bad"
    assert "encoder.0" in found.sentence
    assert all(layer.norm_ratio == pytest.approx(0.5, rel=0.1) for layer in found.layers)


def test_the_layer_that_collapses_or_explodes_is_named(listeners: Listeners, diagnose: Diagnose) -> None:
    stack, number = LAYERS[listeners.family][-1].split(".")
    # Of wav2vec2 a layer ends with its norm; in Whisper its part is added to what comes before it.
    part = f"{stack}.layers.{number}.{'final_layer_norm' if listeners.family == 'ctc' else 'fc2'}"
    loud = {
        name: listeners.altered(f"loud-{name}", lambda key, value: value * 8 if part in key else value, of=name)
        for name in listeners.experts
    }
    fallen = diagnose(listeners.experts["legal"], experts=loud)
    assert [layer.layer for layer in fallen.layers if layer.collapsed] == [f"{stack}.{number}"] and fallen.tone == "bad"
    assert fallen.sentence.startswith(f"Activations collapse in {stack}.{number}: their variance is ")
    risen = diagnose(loud["legal"])
    assert [layer.layer for layer in risen.layers if layer.exploded] == [f"{stack}.{number}"] and risen.tone == "bad"
    assert f"xplode in {stack}.{number}: their variance is " in risen.sentence


def test_a_map_that_falls_silent_inside_of_a_layer_is_named(listeners: Listeners, diagnose: Diagnose) -> None:
    attention = f"encoder.layers.1.{'attention' if listeners.family == 'ctc' else 'self_attn'}"
    # Products of queries and keys stay what they were, and so does what the layer computes.
    factors = {f"{attention}.q_proj": 0.1, f"{attention}.k_proj": 10.0}

    def change(name: str, value: Tensor) -> Tensor:
        return value * next((factor for part, factor in factors.items() if part in name), 1.0)

    muted = listeners.altered("muted", change)
    found = diagnose(muted, experts=dict.fromkeys(listeners.experts, listeners.experts["legal"]))
    layer = next(one for one in found.layers if one.layer == "encoder.1")
    part = f"{attention.rpartition('.')[2]}.q_proj"
    assert (layer.quietest_map, layer.quietest_units, layer.variance_ratio) == (part, 1.0, pytest.approx(1, rel=1e-3))
    assert found.sentence.startswith("No layer collapses") and found.tone == "bad"
    assert f"Inside of encoder.1, 100\u00a0% of the units of {part} vary less than half as much" in found.sentence


def test_what_was_collected_is_not_collected_again(
    listeners: Listeners, diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch
) -> None:
    expert = listeners.experts["medical"]
    first = diagnose(expert)
    monkeypatch.setattr("asrmerge.statistics.collecting._Collection.run", lambda *_: pytest.fail("collected again"))
    assert diagnose(expert) == first


def test_json_both_ways(listeners: Listeners, diagnose: Diagnose) -> None:
    for base in (True, False):
        found = diagnose(listeners.experts["medical"], base=base)
        assert Diagnosis.model_validate_json(found.model_dump_json()) == found
        assert (found.base is None) == (found.overall.task_vector_ratio is None) == (not base)


def test_what_cannot_be_compared_is_refused(listeners: Listeners, diagnose: Diagnose, tmp_path: Path) -> None:
    other = make_listeners(tmp_path / "other", "whisper" if listeners.family == "ctc" else "ctc")
    with pytest.raises(IncompatibleError, match="merged"):
        diagnose(other.base)
    with pytest.raises(ConfigError, match="legal has no expert of that name: name it after one of medical"):
        diagnose(listeners.base, experts={"medical": listeners.experts["medical"]})


def activations(variances: Mapping[str, list[float]], ranks: Mapping[str, float]) -> Activations:
    return Activations({name: torch.tensor(one, dtype=torch.float64) for name, one in variances.items()}, ranks)


LAYER, MAP = "encoder.layers.0", "encoder.layers.0.fc"


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3), min_size=1, max_size=3),
    st.floats(0.01, 9),
    st.floats(0.1, 3),
)
def test_ratios_follow_the_merged_model_s_scale(variances: list[list[float]], scale: float, rank: float) -> None:
    experts = {str(at): activations({LAYER: one, MAP: one}, {LAYER: 2.0 + at}) for at, one in enumerate(variances)}
    merged = {
        name: activations(
            {key: (scale * value).tolist() for key, value in one.variances.items()}, {LAYER: rank * one.effective_ranks[LAYER]}
        )
        for name, one in experts.items()
    }
    (layer,) = compare_activations(merged, experts, "wav2vec2")
    assert (layer.layer, layer.variance_ratio, layer.rank_ratio) == ("encoder.0", pytest.approx(scale), pytest.approx(rank))
    if abs(scale - 0.25) > 1e-6:
        assert (layer.quiet_units, layer.quietest_map) == ((1.0, "fc") if scale < 0.25 else (0.0, None))


def test_layers_come_in_the_order_of_the_forward_pass() -> None:
    names = [f"model.{stack}.layers.{number}" for stack in ("decoder", "encoder") for number in (10, 9, 0)]
    one = activations({name: [1.0] for name in names}, dict.fromkeys(names, 1.0))
    found = compare_activations({"a": one}, {"a": one}, "whisper")
    assert [layer.layer for layer in found] == [f"{stack}.{number}" for stack in ("encoder", "decoder") for number in (0, 9, 10)]


def test_what_does_not_vary_or_differs_in_width_has_no_ratio() -> None:
    expert = activations({LAYER: [0.0, 0.0], MAP: [0.0, 0.0], f"{LAYER}.head": [1.0, 1.0, 1.0]}, {LAYER: 0.0})
    merged = activations({LAYER: [1.0, 0.0], MAP: [0.0, 0.0], f"{LAYER}.head": [0.0, 0.0]}, {LAYER: 1.0})
    (layer,) = compare_activations({"a": merged}, {"a": expert}, "wav2vec2")
    assert (layer.variance_ratio, layer.rank_ratio, layer.quiet_units) == (None, None, 0.0)
    assert not layer.collapsed and not layer.exploded
    lacking = replace(merged, effective_ranks={})
    assert compare_activations({"a": lacking}, {"a": expert}, "wav2vec2") == ()


def test_infinite_activations_are_refused(tmp_path: Path) -> None:
    tensors = {f"{LAYER}.variance": torch.tensor([1.0, float("inf")]), f"{LAYER}.effective_rank": torch.tensor(1.0)}
    write_tensors(tmp_path / "activations.safetensors", tensors, {})
    with pytest.raises(StatisticsError, match=r"encoder\.layers\.0\.variance is NaN or Inf"):
        read_activations(tmp_path)
