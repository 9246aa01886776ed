"""Fisher information from Adam's state: of transformers' Trainer, whose names are found by order, and of our fine-tuning."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import SECONDS, TEXTS
from safetensors.torch import load_file, save_file
from scipy.stats import rankdata
from transformers import Trainer

from asrmerge.checkpoints import Checkpoint
from asrmerge.checkpoints.names import canonical_name
from asrmerge.checkpoints.safetensors_file import SafetensorsReader
from asrmerge.checkpoints.storage import find_weight_files
from asrmerge.errors import CheckpointError, ConfigError, IncompatibleError
from asrmerge.experts.finetune import TrainingAudio, finetune
from asrmerge.experts.moments import MOMENTS_FILE, MomentsHeader, read_moments, unbiased_second_moment, write_moments
from asrmerge.experts.settings import FinetuneSettings
from asrmerge.merging.artefact import Header, read_header
from asrmerge.merging.structure import plan_places
from asrmerge.merging.units import compose_weight_norm
from asrmerge.recognizers.recognizer import load_recognizer
from asrmerge.speech.audio import read_utterance
from asrmerge.speech.manifest import Utterance
from asrmerge.statistics.collecting import collect_statistics
from asrmerge.statistics.comparing import rank_correlation
from asrmerge.statistics.optimizer_state import fisher_from_optimizer
from asrmerge.statistics.settings import StatisticsSettings
from asrmerge.statistics.subject import load_subject

BETA = 0.95
POSITIONAL = "wav2vec2.encoder.pos_conv_embed.conv"
SINUSOIDAL = "model.encoder.embed_positions.weight"  # which merges copy


def groups_of(model: Any, decayed: Sequence[str]) -> list[dict[str, Any]]:
    """As Trainer.create_optimizer has them."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for name, parameter in trained if name in decayed], "weight_decay": 0.01},
        {"params": [parameter for name, parameter in trained if name not in decayed], "weight_decay": 0.0},
    ]


def train(folder: Path, utterances: Sequence[Utterance], *, freeze: str = "", steps: int = 6, one_group: bool = False) -> Any:
    """A loop like the Trainer's: two utterances a step; the folder gets the weights and the optimizer.pt. Returns the optimiser
    and its model, which know the names."""
    recognizer: Any = load_recognizer(folder)
    model = recognizer.model
    for name, parameter in model.named_parameters():
        if freeze and name.startswith(freeze):
            parameter.requires_grad_(False)
    decayed = Trainer.get_decay_parameter_names(None, model)  # type: ignore[arg-type]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    given: Any = trained if one_group else groups_of(model, decayed)
    optimizer = torch.optim.AdamW(given, lr=1e-4, betas=(0.9, BETA))
    for step in range(steps):
        chosen = [utterances[(2 * step + index) % len(utterances)] for index in range(2)]
        audio = [read_utterance(one) for one in chosen]
        loss = recognizer.loss({**recognizer.features(audio), "labels": recognizer.labels([one.text for one in chosen])})
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    return model, optimizer


def expected(model: Any, optimizer: Any, batch: float) -> dict[str, np.ndarray]:
    """B·v/(1 − β₂ᵗ) of every parameter that has a state, by the optimiser's own knowledge of what is what."""
    return {
        canonical_name(name): (batch * state["exp_avg_sq"].double() / (1 - BETA ** int(state["step"]))).numpy()
        for name, parameter in model.named_parameters()
        if (state := optimizer.state.get(parameter)) and name != SINUSOIDAL
    }


def read(folder: Path) -> tuple[dict[str, torch.Tensor], Header]:
    path = folder / "fisher.safetensors"
    header = read_header(SafetensorsReader(path))
    assert header is not None
    return load_file(path), header


@pytest.fixture
def make(make_ctc: Callable[..., Path], make_whisper: Callable[..., Path]) -> Callable[[str], Path]:
    """Also wav2vec2 with a group normalisation in a front end, whose decay has changed with the Trainer's versions."""
    makers = {
        "whisper": make_whisper,
        "ctc": make_ctc,
        "group": lambda: make_ctc(feat_extract_norm="group"),
        "bert": lambda: make_ctc("wav2vec2-bert"),
    }
    return lambda name: makers[name]()


@pytest.mark.parametrize(
    ("family", "freeze"),
    [
        ("whisper", ""),
        ("whisper", "model.encoder"),
        ("whisper", "model.encoder.embed_positions"),  # as in some releases of transformers
        ("ctc", ""),
        ("ctc", "wav2vec2.feature_extractor"),
        ("ctc", "wav2vec2"),
        ("group", ""),
        ("bert", ""),
    ],
)
def test_a_trainers_state_gives_each_parameter_its_own(
    family: str, freeze: str, make: Callable[[str], Path], speak: Callable[..., list], tmp_path: Path
) -> None:
    folder = make(family)
    model, optimizer = train(folder, speak(SECONDS, TEXTS), freeze=freeze)
    header = fisher_from_optimizer(str(folder), tmp_path / "out", utterances_per_step=2)
    found, stored = read(tmp_path / "out")
    assert header == stored
    wanted = expected(model, optimizer, 2)
    weight_normed = {name for name in wanted if name.startswith(f"{POSITIONAL}.param")}
    for name in wanted.keys() - weight_normed:
        assert np.allclose(found[name].numpy(), wanted[name], rtol=1e-5, atol=0), name
    zero = {name for name, value in found.items() if not value.any()}
    assert zero <= header.lacking.keys() and found.keys() == (wanted.keys() - weight_normed) | header.lacking.keys() | (
        {f"{POSITIONAL}.weight"} if weight_normed else set()
    )
    names = {canonical_name(name) for name, _ in model.named_parameters()} - {SINUSOIDAL}
    names = {f"{POSITIONAL}.weight" if name.startswith(f"{POSITIONAL}.param") else name for name in names}
    assert found.keys() == names  # what merges ask for
    assert all(name.startswith(freeze) or name.endswith("masked_spec_embed") for name in header.lacking)
    assert set(header.lacking.values()) <= {"the optimiser has no state of it"}
    assert (header.kind, header.variant, header.utterances) == ("fisher", "adam", 12)
    assert header.model_sha256 == Checkpoint.open(folder).hash()
    assert "6 steps of 2 utterances, β₂ = 0.95" in header.note and "a mean over tokens" in header.note
    assert "clipped, which makes the largest ones smaller, is not known" in header.note


def test_one_group_and_other_frozen_parts(make_whisper: Callable[..., Path], speak: Callable[..., list], tmp_path: Path) -> None:
    folder = make_whisper()
    frozen = "model.decoder.layers.0"
    model, optimizer = train(folder, speak(SECONDS, TEXTS), freeze=frozen, one_group=True)
    with pytest.raises(IncompatibleError, match=r"has groups of \d+ parameters, which do not fit its \d+ parameters by number"):
        fisher_from_optimizer(str(folder), tmp_path / "out", utterances_per_step=2)
    header = fisher_from_optimizer(str(folder), tmp_path / "out", utterances_per_step=2, frozen=[frozen], gradient_norm=0.5)
    found, _ = read(tmp_path / "out")
    wanted = expected(model, optimizer, 2)
    assert all(np.allclose(found[name].numpy(), value, rtol=1e-5, atol=0) for name, value in wanted.items())
    assert header.lacking.keys() == {name for name in found if name.startswith(frozen)}
    assert "Gradients were clipped to a norm of 0.5" in header.note


@pytest.mark.parametrize("family", ["ctc", "whisper", "group", "bert"])
def test_groups_of_older_trainers_are_known(
    family: str, make: Callable[[str], Path], speak: Callable[..., list], tmp_path: Path
) -> None:
    """They let group normalisations decay: only biases and layer normalisations did not."""
    folder = make(family)
    model = load_recognizer(folder).model
    norms = [name for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)]
    decayed = [name for name, _ in model.named_parameters() if "bias" not in name and name.rpartition(".")[0] not in norms]
    newer = Trainer.get_decay_parameter_names(None, model)  # type: ignore[arg-type]
    assert ({*decayed} != {*newer} & {name for name, _ in model.named_parameters()}) == (family == "group")
    optimizer = torch.optim.AdamW(groups_of(model, decayed), betas=(0.9, BETA))
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, 1.0 + number)
    optimizer.step()
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    fisher_from_optimizer(str(folder), tmp_path / "out", utterances_per_step=1)
    found, _ = read(tmp_path / "out")
    numbers = {canonical_name(name): number for number, (name, one) in enumerate(model.named_parameters()) if one.requires_grad}
    for name, value in found.items():
        if name != f"{POSITIONAL}.weight":
            assert torch.allclose(value, torch.tensor((1.0 + numbers[name]) ** 2)), name


def test_weight_norms_are_put_together(make_ctc: Callable[..., Path], tmp_path: Path) -> None:
    """Against the exact diagonal, by autograd through g·v/‖v‖, of random gradients of the weight: about the same."""
    folder = make_ctc()
    weights = load_file(folder / "model.safetensors")
    names = [f"{POSITIONAL}.parametrizations.weight.original{number}" for number in (0, 1)]
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(weights[names[1]].shape, generator=generator) * 3
    moments = [torch.zeros_like(weights[name]) for name in names]
    exact = torch.zeros_like(scale)
    draws = 400
    for _ in range(draws):
        gradient = torch.randn(scale.shape, generator=generator) * scale
        members = [weights[name].clone().requires_grad_() for name in names]
        (compose_weight_norm(*members) * gradient).sum().backward()
        for moment, member in zip(moments, members, strict=True):
            moment += member.grad**2 / draws
        exact += gradient**2 / draws
    write = MomentsHeader(steps=1, kept_step=1, beta2=0.9, utterances_per_step=3, gradient_norm=1)
    model = load_recognizer(folder).model
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW([parameters[name] for name in names], betas=(0.9, 0.9))
    for name, moment in zip(names, moments, strict=True):
        optimizer.state[parameters[name]] = {"exp_avg_sq": moment * 0.1, "step": torch.tensor(1.0)}
    write_moments(folder / MOMENTS_FILE, model, optimizer, write)
    fisher_from_optimizer(str(folder), tmp_path / "out")
    found, header = read(tmp_path / "out")
    ratio = found[f"{POSITIONAL}.weight"] / (3 * exact)
    assert float(ratio.median()) == pytest.approx(1, abs=0.1)
    assert float(ratio.log().abs().quantile(0.95)) < math.log(1.6)
    assert f"{POSITIONAL}.weight" not in header.lacking and "lm_head.weight" in header.lacking


@pytest.fixture
def tuned(make_whisper: Callable[..., Path], make_ctc: Callable[..., Path], speak: Callable[..., list]) -> Callable[..., Any]:
    """A base that asrmerge has fine-tuned on a few utterances."""

    def tune(family: str, output: Path, **settings: Any) -> tuple[Path, list[Utterance]]:
        folder = make_ctc() if family == "ctc" else make_whisper()
        utterances = speak([0.5, 0.6, 0.55, 0.45, 0.5, 0.52], ["ab", "cad", "be", "bad", "egg", "a b"])
        chosen = FinetuneSettings.model_validate(
            {"steps": 12, "batch_seconds": 1.3, "learning_rate": 1e-4, "evaluate_every": 6, "patience": 9} | settings
        )
        finetune(str(folder), TrainingAudio(utterances, [], utterances[:2]), output, chosen, seed=1)
        return output, utterances

    return tune


@pytest.mark.parametrize("family", ["ctc", "whisper"])
def test_our_own_fine_tuning_keeps_its_moments(family: str, tuned: Callable[..., Any], tmp_path: Path) -> None:
    folder, _ = tuned(family, tmp_path / "expert", gradient_norm=0.7)
    record = json.loads((folder / "training.json").read_text())
    moments = read_moments(folder / MOMENTS_FILE)
    assert moments.header == MomentsHeader(
        steps=12, kept_step=record["best_step"], beta2=0.999, utterances_per_step=record["utterances"] / 12, gradient_norm=0.7
    )
    assert record["utterances"] == 24  # two in each step
    checkpoint = Checkpoint.open(folder)
    frozen = {name for name in checkpoint.names if "feature_extractor" in name or "encoder.conv" in name}
    frozen |= {SINUSOIDAL} & {*checkpoint.names}
    assert moments.values.keys() == {*checkpoint.names} - frozen
    assert all(bool((value >= 0).all()) and value.dtype == torch.float32 for value in moments.values.values())
    header = fisher_from_optimizer(str(folder), tmp_path / "out")
    found, stored = read(tmp_path / "out")
    assert stored == header and (header.variant, header.utterances) == ("adam", 24)
    assert "12 steps of 2 utterances" in header.note and "clipped to a norm of 0.7" in header.note
    late = f"The weights are those of step {record['best_step']}." in header.note
    assert late == (record["best_step"] != 12)
    assert header.lacking.keys() == frozen - {SINUSOIDAL}
    name = "lm_head.weight" if family == "ctc" else "model.decoder.layers.0.fc1.weight"
    assert torch.allclose(found[name], 2 * moments.values[name])


def test_moments_are_those_of_the_gradients(make_whisper: Callable[..., Path], tmp_path: Path) -> None:
    """Of gradients that are known: the running mean freed of its start, to the precision of bfloat16."""
    model = load_recognizer(make_whisper()).model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, BETA))
    squares: list[float] = []
    for gradient in (1e-6, 3e-6, 2e-6):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        squares.append(gradient**2)
    weights = [BETA ** (2 - step) for step in range(3)]
    mean = sum(weight * square for weight, square in zip(weights, squares, strict=True)) / sum(weights)
    header = MomentsHeader(steps=3, kept_step=3, beta2=BETA, utterances_per_step=1, gradient_norm=1)
    write_moments(tmp_path / MOMENTS_FILE, model, optimizer, header)
    for value in read_moments(tmp_path / MOMENTS_FILE).values.values():
        assert value.flatten()[0].item() == pytest.approx(mean, rel=2**-8)
    assert float(unbiased_second_moment(torch.tensor(1.0), 1, 0.9)) == pytest.approx(10)


def test_moments_are_no_weights_and_small(tuned: Callable[..., Any], tmp_path: Path) -> None:
    folder, _ = tuned("whisper", tmp_path / "expert", freeze="nothing")
    assert [path.name for path in find_weight_files(folder)] == ["model.safetensors"]
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.weight_files == (folder / "model.safetensors",)
    before = {name: checkpoint.read(name) for name in checkpoint.names}
    model = load_recognizer(folder).model
    (folder / MOMENTS_FILE).rename(tmp_path / MOMENTS_FILE)
    assert Checkpoint.open(folder).hash() == checkpoint.hash()
    assert all(torch.equal(value, before[canonical_name(name)]) for name, value in model.named_parameters())
    # Half of the weights' room, and a header that has the names.
    header = len(json.dumps(list(before))) + 200 * len(before)
    size = (tmp_path / MOMENTS_FILE).stat().st_size
    assert size < (folder / "model.safetensors").stat().st_size / 2 + header


@pytest.mark.parametrize("family", ["ctc", "whisper"])
def test_it_ranks_parameters_as_a_fisher_computed_directly_does(family: str, tuned: Callable[..., Any], tmp_path: Path) -> None:
    folder, utterances = tuned(family, tmp_path / "expert", freeze="nothing")
    settings = StatisticsSettings(kinds=("fisher",), fisher="empirical")
    collect_statistics(load_subject(str(folder)), utterances, tmp_path / "direct", settings)
    fisher_from_optimizer(str(folder), tmp_path / "adam")
    checkpoint = Checkpoint.open(folder)
    places = plan_places({name: checkpoint.shape(name) for name in checkpoint.names}, checkpoint.model_type)
    groups = {name: place.group for name, place in places.items()} | {f"{POSITIONAL}.weight": "positional"}
    files = [SafetensorsReader(tmp_path / place / "fisher.safetensors") for place in ("direct", "adam")]
    found = rank_correlation(files[0], files[1], groups)
    assert found.overall > 0.5 and all(value > 0.2 for value in found.groups.values()), found
    assert {"encoder.0", "norms"} < found.groups.keys()
    assert set(found.left_out) <= {"wav2vec2.masked_spec_embed", SINUSOIDAL}


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def test_rank_correlation_is_spearmans(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    shapes = {"a.weight": (30, 7), "a.bias": (30,), "b.weight": (11,), "zero": (4,)}
    one = {name: random.random(shape).astype(np.float32) for name, shape in shapes.items()}
    other = {name: (value + random.normal(0, 0.3, value.shape) ** 2).astype(np.float32) for name, value in one.items()}
    one["zero"][:] = 0
    other["alone"] = np.ones(3, dtype=np.float32)
    for name, content in (("one", one), ("other", other)):
        save_file({key: torch.from_numpy(value) for key, value in content.items()}, tmp_path / name)
    files = SafetensorsReader(tmp_path / "one"), SafetensorsReader(tmp_path / "other")
    groups = {"a.weight": "a", "a.bias": "a", "b.weight": "b"}
    found = rank_correlation(*files, groups)

    def joined(content: dict[str, np.ndarray], names: list[str]) -> np.ndarray:
        return np.concatenate([content[name].ravel() for name in names])

    names = ["a.bias", "a.weight", "b.weight"]
    assert found.overall == pytest.approx(spearman(joined(one, names), joined(other, names)))
    assert found.groups["a"] == pytest.approx(spearman(joined(one, names[:2]), joined(other, names[:2])))
    assert found.groups["b"] == pytest.approx(spearman(one["b.weight"], other["b.weight"]))
    assert (found.entries, found.left_out, list(found.groups)) == (251, ("alone", "zero"), ["a", "b"])
    sampled = [rank_correlation(*files, groups, most=60, seed=seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] and sampled[0].overall != sampled[2].overall and sampled[0].entries == 60
    assert sampled[0].groups["b"] == found.groups["b"]  # all of a small group
    assert abs(sampled[0].overall - found.overall) < 0.3
    same = rank_correlation(files[0], files[0], {})
    assert same.overall == pytest.approx(1) and list(same.groups) == ["other"]
    save_file({"b.weight": torch.ones(11), "a.bias": torch.rand(30)}, tmp_path / "flat")
    flat = rank_correlation(files[0], SafetensorsReader(tmp_path / "flat"), groups)
    assert math.isnan(flat.groups["b"]) and not math.isnan(flat.overall)
    for name, content, message in (
        ("shape", {"b.weight": torch.ones(12)}, r"b.weight has shape \[11\] in .*one and \[12\] in .*shape"),
        ("names", {"c": torch.ones(3)}, "have no parameter in common"),
    ):
        save_file(content, tmp_path / name)
        with pytest.raises(IncompatibleError, match=message):
            rank_correlation(files[0], SafetensorsReader(tmp_path / name), groups)


def test_states_that_cannot_be_used(
    make_whisper: Callable[..., Path], make_ctc: Callable[..., Path], speak: Callable[..., list], tmp_path: Path
) -> None:
    folder = make_whisper()

    def refused(error: type[Exception], message: str, source: Path = folder, **given: Any) -> None:
        with pytest.raises(error, match=message):
            fisher_from_optimizer(str(source), tmp_path / "out", **({"utterances_per_step": 2} | given))
        assert not (tmp_path / "out").exists()

    file = folder / "optimizer.pt"
    refused(CheckpointError, "has neither optimizer_moments.safetensors nor optimizer.pt beside its weights")
    refused(CheckpointError, r"gone\.pt does not exist", optimizer=tmp_path / "gone.pt")
    refused(
        CheckpointError, r"gone\.safetensors does not exist", optimizer=tmp_path / "gone.safetensors", utterances_per_step=None
    )
    file.write_bytes(b"nonsense")
    refused(CheckpointError, r"optimizer\.pt cannot be read as plain tensors")
    torch.save({"run": print}, file)
    refused(CheckpointError, r"optimizer\.pt cannot be read as plain tensors")
    for content in ({"x": torch.ones(1)}, [1, 2]):
        torch.save(content, file)
        refused(CheckpointError, r"optimizer\.pt is no optimiser's state")
    model = load_recognizer(folder).model
    plain = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    plain.step()
    torch.save(plain.state_dict(), file)
    refused(CheckpointError, r"was not written by torch's Adam or AdamW after a step \(it holds momentum_buffer\)")
    torch.save(torch.optim.AdamW(model.parameters()).state_dict(), file)
    refused(CheckpointError, r"after a step \(it holds nothing\)")
    train(folder, speak(SECONDS, TEXTS))
    refused(ConfigError, "does not say how many utterances a step had", utterances_per_step=None)
    refused(ConfigError, "does not say how many utterances a step had", utterances_per_step=0.0)
    refused(IncompatibleError, r"has groups of \d+ and \d+ parameters, which do not fit its", source=make_ctc(), optimizer=file)
    wider = make_whisper(decoder_ffn_dim=64)
    refused(IncompatibleError, "do not fit its .* parameters by number and shape", source=wider, optimizer=file)
    state = torch.load(file, weights_only=True)
    state["state"][3]["exp_avg_sq"][0] = torch.nan
    torch.save(state, file)
    refused(CheckpointError, "holds NaN or Inf for model.* the training diverged")


def test_own_moments_that_cannot_be_used(tuned: Callable[..., Any], make_ctc: Callable[..., Path], tmp_path: Path) -> None:
    folder, _ = tuned("whisper", tmp_path / "expert")
    file = folder / MOMENTS_FILE

    def refused(error: type[Exception], message: str, source: Path = folder, **given: Any) -> None:
        with pytest.raises(error, match=message):
            fisher_from_optimizer(str(source), tmp_path / "out", **given)

    refused(ConfigError, "says how many utterances a step had: leave that out", utterances_per_step=2)
    refused(IncompatibleError, "does not fit .*, where it is not there: give the model", source=make_ctc(), optimizer=file)
    content, metadata = load_file(file), SafetensorsReader(file).metadata
    name = "model.decoder.layer_norm.bias"
    save_file(content | {name: torch.ones(3)}, file, metadata)
    refused(IncompatibleError, rf"{name} \[3\] does not fit .*, where it has shape \[32\] there")
    save_file(content | {name: torch.full((32,), torch.inf)}, file, metadata)
    refused(CheckpointError, f"holds NaN or Inf for {name}: the training diverged; fine-tune the expert again")
    save_file(content, file)
    refused(CheckpointError, "has no header of moments that can be read")
    file.write_bytes(file.read_bytes()[:-5])
    refused(CheckpointError, "truncated")
