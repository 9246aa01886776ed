"""RegMean++ against copies of whole models, stage by stage; what it has in common with RegMean; what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import statistics_reference as statistics
from reference.layerwise import regmean_plus_plus
from worlds import NAMES, PADDING_EVERY, STAGES, World, counting, make_world

from asrmerge.errors import ConfigError, LearningError, ManifestError
from asrmerge.learning.method import LearnedWeights
from asrmerge.learning.registry import get_learning_method
from asrmerge.learning.session import Session
from asrmerge.merging.live import LiveMerge
from asrmerge.merging.statistics import open_statistics
from asrmerge.recognizers.recognizer import load_recognizer
from asrmerge.statistics.collecting import collect_statistics
from asrmerge.statistics.settings import StatisticsSettings
from asrmerge.statistics.subject import load_subject

FAMILIES = ("ctc", "whisper")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, World]:
    return {family: make_world(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


def learn(session: Session, **parameters: Any) -> LearnedWeights:
    method = get_learning_method("regmean_plus_plus")
    learned = method.learn(session, method.parameters(**{"padding_every": PADDING_EVERY, **parameters}))
    assert isinstance(learned, LearnedWeights)
    return learned


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_regression_of_each_experts_stage_behind_the_merged_ones(worlds: Mapping[str, World], family: str) -> None:
    world = worlds[family]
    session = world.session(legal=3.0, medical=1.0)
    learned = learn(session, jitter=0.0, alpha=0.8)
    base = world.plain(world.base)
    experts = {name: world.plain(world.experts[name]).state_dict() for name in NAMES}
    heard = {name: world.heard(name) for name in NAMES}
    weights = {"legal": 0.75, "medical": 0.25}
    expected = regmean_plus_plus(base, experts, STAGES[family], heard, weights, 0.8)
    found = statistics.plain_copy(session.recognizer.model).state_dict()
    means = {name: sum(weights[one] * experts[one][name] for one in NAMES) for name in found}
    moved = 0
    for stage in STAGES[family]:
        for name in [name for name in found if name.startswith(f"{stage}.")]:
            change = (expected[name] - base.state_dict()[name]).abs().max()
            assert (found[name] - expected[name]).abs().max() <= 2e-3 * change, name
            moved += bool((expected[name] - means[name]).abs().max() > 0.05 * change)
    assert moved >= 20  # far from the plain mean
    assert [one.name for one in learned.stages if one.name in STAGES[family]] == STAGES[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_stage_is_regmeans_and_later_ones_are_not(worlds: Mapping[str, World], family: str, tmp_path: Path) -> None:
    world = worlds[family]
    learned = learn(world.session())
    for name in NAMES:
        settings = StatisticsSettings(kinds=("grams",), padding_every=PADDING_EVERY)
        collect_statistics(load_subject(str(world.experts[name])), world.audio[name], tmp_path / name, settings)
    plain = regmean(world, tmp_path)
    first, second = STAGES[family][0], next(one for one in STAGES[family][1:] if "layers.0" in one and "conv" not in one)
    for name, value in learned.tensors.items():
        if name.startswith(f"{first}."):
            torch.testing.assert_close(value, plain[name], rtol=1e-4, atol=1e-6)
    differ = [
        name for name in learned.tensors if name.startswith(f"{second}.") and name.endswith("weight") and "norm" not in name
    ]
    for name in differ:
        assert (learned.tensors[name] - plain[name]).abs().max() > 1e-3 * plain[name].abs().max()


def regmean(world: World, folder: Path) -> dict[str, torch.Tensor]:
    """The live merge with statistics of the experts by themselves."""
    from asrmerge.checkpoints.checkpoint import Checkpoint
    from asrmerge.merging.recipe import RecipeExpert

    model = load_recognizer(world.base).model
    experts = [RecipeExpert(name=name, model=str(world.experts[name]), statistics=str(folder / name)) for name in NAMES]
    checkpoints = [Checkpoint.open(world.experts[name]) for name in NAMES]
    opened = open_statistics(experts, checkpoints, ("grams",), [], {})
    LiveMerge(model, {name: world.state(name) for name in NAMES}, dict(zip(NAMES, opened, strict=True))).apply(
        "regmean", dict.fromkeys(NAMES, 1.0)
    )
    return {name: value.detach() for name, value in model.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_identical_experts_come_back_and_so_does_the_one_with_all_the_weight(worlds: Mapping[str, World], family: str) -> None:
    world = worlds[family]
    own = world.plain(world.experts["legal"]).state_dict()
    same, only = world.session(states={name: world.state("legal") for name in NAMES}), world.session(legal=1.0, medical=0.0)
    learned = [learn(session) for session in (same, only)]
    for session in (same, only):
        found = statistics.plain_copy(session.recognizer.model).state_dict()
        for name, value in own.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    assert [max(one.utterances for one in each.stages) for each in learned] == [7, 3]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_does_not_matter_and_a_second_time_gives_the_same(worlds: Mapping[str, World], family: str) -> None:
    world = worlds[family]
    once, turned = learn(world.session(medical=2.0)), learn(world.session(names=NAMES[::-1], medical=2.0))
    assert once.tensors.keys() == turned.tensors.keys()
    assert all(torch.equal(value, turned.tensors[name]) for name, value in once.tensors.items())


def test_a_scale_of_zero_returns_the_base(worlds: Mapping[str, World]) -> None:
    world = worlds["whisper"]
    base = world.load(world.base).state_dict()
    for name, value in learn(world.session(), scale=0.0).tensors.items():
        assert torch.equal(value, base[name])


def test_what_no_expert_has_changed_is_not_heard(worlds: Mapping[str, World]) -> None:
    """A head with another bias: its weight may change too, everything before it does not."""
    world = worlds["ctc"]
    base = world.load(world.base).state_dict()
    states = {name: {**base, "lm_head.bias": base["lm_head.bias"] + shift} for shift, name in enumerate(NAMES, start=1)}
    learned = learn(world.session(states=states))
    assert set(learned.tensors) == {"lm_head.weight", "lm_head.bias"}
    assert [(one.name, one.maps, one.utterances) for one in learned.stages] == [("lm_head", 1, 7)]


def test_states_of_a_merged_encoder_are_computed_once(worlds: Mapping[str, World], monkeypatch: pytest.MonkeyPatch) -> None:
    world = worlds["whisper"]
    session = world.session()
    kind, counts = type(session.recognizer), []
    monkeypatch.setattr(kind, "encode", counting(kind.encode, counts))
    learn(session)
    assert sum(counts) == 7


def test_utterances_are_drawn_by_the_seed(worlds: Mapping[str, World]) -> None:
    world = worlds["ctc"]
    few = learn(world.session(), utterances=2)
    assert {one.utterances for one in few.stages} == {0, 4}
    chosen = {name: [one for one in world.audio[name] if one in draw_of(world, name)] for name in NAMES}
    again = learn(world.session(audio=chosen))
    assert all(torch.equal(value, again.tensors[name]) for name, value in few.tensors.items())


def draw_of(world: World, name: str) -> list[Any]:
    from asrmerge.learning.audio import draw

    drawn = draw(world.audio[name], 2, seed=0)
    assert len(drawn) == 2 and drawn == draw(world.audio[name][::-1], 2, seed=0)[::-1]
    return drawn


def test_the_model_is_left_without_hooks(worlds: Mapping[str, World]) -> None:
    session = worlds["whisper"].session()
    learn(session)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in session.recognizer.model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_bad_input_is_refused(worlds: Mapping[str, World], family: str) -> None:
    world = worlds[family]
    with pytest.raises(ConfigError, match=r"the audio of general has no expert to be near to; leave it out, or list the base"):
        learn(world.session(audio={**world.audio, "general": world.audio["legal"]}))
    with pytest.raises(ConfigError, match="regmean_plus_plus averages with weights of 0 or more"):
        learn(world.session(legal=-1.0))
    silent = {name: [replace(one, text="") for one in corpus] for name, corpus in world.audio.items()}
    if family == "whisper":
        with pytest.raises(ManifestError, match="the audio of legal has no texts, and a decoder must be fed what is said"):
            learn(world.session(audio=silent))
    else:
        assert learn(world.session(audio=silent)).tensors  # CTC is not fed texts
    first = f"{STAGES[family][0]}.weight"
    loud = {name: {**world.state(name), first: world.state(name)[first] * 1e38} for name in NAMES}
    with pytest.raises(LearningError, match=r"The inputs of .* are NaN or infinite on the audio of legal"):
        learn(world.session(states=loud))
