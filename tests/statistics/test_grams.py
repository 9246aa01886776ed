"""Gram matrices of inputs against loops over one utterance's positions at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import statistics_reference as reference
from families import FAMILIES, SECONDS, TEXTS, Family, assert_close, make_family

from asrmerge.checkpoints.safetensors_file import SafetensorsReader
from asrmerge.merging.artefact import Header, read_header
from asrmerge.recognizers.batching import length_buckets
from asrmerge.speech.manifest import Utterance
from asrmerge.statistics.collecting import collect_statistics
from asrmerge.statistics.settings import StatisticsSettings
from asrmerge.statistics.subject import load_subject

HOP = 160


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, make_ctc: Callable[..., Path], make_whisper: Callable[..., Path]) -> Family:
    return make_family(request.param, make_ctc, make_whisper)


def header_of(folder: Path) -> Header:
    header = read_header(SafetensorsReader(folder / "grams.safetensors"))
    assert header is not None
    return header


def rows_of(family: Family, utterances: list[Utterance], padding_every: int) -> dict[str, np.ndarray]:
    """The inputs of every linear layer and convolution at the positions that count, of all utterances."""
    found: dict[str, list[np.ndarray]] = {}
    for utterance in utterances:
        frames = math.ceil(round(utterance.duration * 16_000) / HOP)
        for name, (inputs, _) in reference.calls(family.model, lambda model, one=utterance: family.run(model, one)).items():
            if reference.is_layer(name):
                continue
            real = len(inputs)
            if name.startswith("model.encoder") or "encoder_attn.k" in name or "encoder_attn.v" in name:
                real = frames if name == "model.encoder.conv1" else math.ceil(frames / 2)
            found.setdefault(name, []).append(inputs[reference.counted(len(inputs), real, padding_every)])
    return {name: np.concatenate(rows) for name, rows in found.items()}


def assert_grams(found: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], header: Header) -> None:
    """Every map's, under its own name or that of the one that it shares its inputs with."""
    stored = {name for name in rows if name not in header.shares}
    assert found.keys() == stored
    assert_close(found, {name: reference.gram(rows[name]) for name in stored}, 1e-4)
    for name, other in header.shares.items():
        assert np.allclose(rows[name], rows[other])
    assert header.positions == {name: len(rows[name]) for name in stored}
    for value in found.values():
        assert np.array_equal(value, value.T) and value[-1, -1] == 1


@pytest.mark.parametrize("gradients", [False, True])
def test_they_are_the_mean_of_products_without_padding(
    gradients: bool, family: Family, speak: Callable[..., list], tmp_path: Path
) -> None:
    """In batches that are padded, or one utterance at a time beside the Fisher."""
    utterances = speak(SECONDS, TEXTS)
    kinds = ("fisher", "grams") if gradients else ("grams",)
    found = family.collect(utterances, tmp_path / "out", kinds=kinds, batch_seconds=9, padding_every=0)["grams"]
    rows = rows_of(family, utterances, 0)
    rows.pop("proj_out", None)  # the embedding of tokens
    rows.pop("wav2vec2.encoder.pos_conv_embed.conv", None)
    header = header_of(tmp_path / "out")
    assert_grams(found, rows, header)
    assert header.utterances == 4 and header.variant == "" and header.seed is None and not header.lacking
    assert len(length_buckets([round(16_000 * one) for one in SECONDS], batch_length=9 * 16_000)) == 1  # padding there was


@pytest.mark.parametrize("padding_every", [1, 3])
def test_padding_that_whisper_hears_counts_as_often_as_is_asked_for(
    padding_every: int, make_whisper: Callable[..., Path], speak: Callable[..., list], tmp_path: Path
) -> None:
    family = make_family("whisper", None, make_whisper)  # type: ignore[arg-type]
    utterances = speak(SECONDS[:3], TEXTS[:3])
    found = family.collect(utterances, tmp_path / "out", kinds=("grams",), padding_every=padding_every)["grams"]
    rows = rows_of(family, utterances, padding_every)
    rows.pop("proj_out")
    header = header_of(tmp_path / "out")
    assert_grams(found, rows, header)
    assert header.padding_weight == 1 / padding_every
    every = 3 * 100 if padding_every == 1 else sum(r + len(range(r + 1, 100, 3)) for r in (62, 50, 90))
    assert header.positions["model.encoder.conv1"] == every


@pytest.mark.parametrize("name", ["layer", "group"])
def test_padding_that_is_not_heard_has_no_weight(
    name: str, make_ctc: Callable[..., Path], speak: Callable[..., list], tmp_path: Path
) -> None:
    family = make_family(name, make_ctc, None)  # type: ignore[arg-type]
    found = [
        family.collect(speak(SECONDS[:2], TEXTS[:2]), tmp_path / f"{every}", kinds=("grams",), padding_every=every)["grams"]
        for every in (0, 1)
    ]
    assert header_of(tmp_path / "1").padding_weight is None
    for module, value in found[0].items():
        assert np.array_equal(value, found[1][module])


def test_inputs_are_shared_where_they_are_the_same_and_nowhere_else(
    family: Family, speak: Callable[..., list], tmp_path: Path
) -> None:
    family.collect(speak(SECONDS[:2], TEXTS[:2]), tmp_path / "out", kinds=("grams",))
    shares: dict[str, str] = {}
    if family.recognizer.family == "whisper":
        for place in ("encoder.layers.0", "encoder.layers.1", "decoder.layers.0", "decoder.layers.1"):
            shares |= {f"model.{place}.self_attn.{one}_proj": f"model.{place}.self_attn.q_proj" for one in "kv"}
        cross = "model.decoder.layers.{}.encoder_attn.{}_proj"
        shares |= {cross.format(layer, one): cross.format(0, "k") for layer, one in ((0, "v"), (1, "k"), (1, "v"))}
    else:
        for layer in range(2):
            place = f"wav2vec2.encoder.layers.{layer}.attention"
            shares |= {f"{place}.{one}_proj": f"{place}.q_proj" for one in "kv"}
    assert header_of(tmp_path / "out").shares == shares


ATTENTION = {"q_proj", "k_proj", "v_proj", "out_proj", "gru_rel_pos_linear"}


@pytest.mark.parametrize(
    ("model_type", "given", "left_out"),
    [
        ("hubert", {}, set()),
        ("wavlm", {}, ATTENTION),  # it hands their weights to a function
        ("data2vec-audio", {}, set()),
        ("wav2vec2-bert", {}, set()),
        ("wav2vec2-bert", {"position_embeddings_type": "relative"}, {"linear_pos"}),  # of all utterances in a batch
    ],
)
def test_other_encoders_give_the_same_in_a_batch_and_alone(
    model_type: str, given: dict, left_out: set, make_ctc: Callable[..., Path], speak: Callable[..., list], tmp_path: Path
) -> None:
    subject = load_subject(str(make_ctc(model_type, **given)))
    utterances = speak([0.6, 0.5, 0.6, 0.6], TEXTS)
    both: tuple[tuple, ...] = (("grams", "activations"), ("factors", "grams", "activations"))
    for kinds in both:
        settings = StatisticsSettings(kinds=kinds, batch_seconds=9)
        collect_statistics(subject, utterances, tmp_path / kinds[0], settings)
    for kind in ("grams", "activations"):
        files = [SafetensorsReader(tmp_path / kinds[0] / f"{kind}.safetensors") for kinds in both]
        one, other = ({name: file.read(name).numpy() for name in file.names()} for file in files)
        assert len(one) > 8
        assert_close(one, other, 1e-3)
    header = header_of(tmp_path / "grams")
    assert {name.rpartition(".")[2] for name in header.lacking} == left_out
    assert all(reason == "it was never computed by itself for each utterance" for reason in header.lacking.values())


def test_maps_that_are_too_wide_are_left_out_and_named(
    make_whisper: Callable[..., Path], speak: Callable[..., list], tmp_path: Path
) -> None:
    family = make_family("whisper", None, make_whisper)  # type: ignore[arg-type]
    found = family.collect(speak(SECONDS[:2], TEXTS[:2]), tmp_path / "out", kinds=("grams", "factors"), widest=40)
    wide = {"model.encoder.conv1": 48, "model.encoder.conv2": 96}
    wide |= {f"model.{part}.layers.{layer}.fc2": 48 for part in ("encoder", "decoder") for layer in (0, 1)}
    assert header_of(tmp_path / "out").lacking == {name: f"it has {width} inputs, more than 40" for name, width in wide.items()}
    assert not found["grams"].keys() & wide.keys() and "model.encoder.layers.0.fc1" in found["grams"]
    header = read_header(SafetensorsReader(tmp_path / "out" / "factors.safetensors"))
    wide = {f"model.{part}.layers.{layer}.fc1": 48 for part in ("encoder", "decoder") for layer in (0, 1)}
    assert header is not None and header.lacking == {
        name: f"it has {width} outputs, more than 40" for name, width in wide.items()
    }
    assert not found["factors"].keys() & wide.keys() and "model.encoder.layers.0.fc2" in found["factors"]


def test_untied_projections_have_their_own(make_whisper: Callable[..., Path], speak: Callable[..., list], tmp_path: Path) -> None:
    folder = make_whisper(tie_word_embeddings=False)
    collect_statistics(load_subject(str(folder)), speak([0.5], ["a"]), tmp_path, StatisticsSettings(kinds=("grams", "factors")))
    for kind, width in (("grams", 33), ("factors", 265)):
        file = SafetensorsReader(tmp_path / f"{kind}.safetensors")
        assert file.shape("proj_out") == (width, width)
