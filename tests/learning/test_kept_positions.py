"""A model that keeps tensors from one call to the next: gradients are asked for after it has transcribed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from transformers import (
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2BertProcessor,
    Wav2Vec2CTCTokenizer,
)

from asrmerge.learning.weights import MergedWeights
from asrmerge.recognizers.recognizer import load_recognizer


def test_rotary_positions_that_a_transcript_left_behind_can_be_differentiated_through(tmp_path: Path) -> None:
    tokens = ["<pad>", "<unk>", "|", *"abc"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    config = Wav2Vec2BertConfig(
        vocab_size=len(tokens), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        pad_token_id=0, feature_projection_input_dim=160, position_embeddings_type="rotary",
    )  # fmt: skip
    torch.manual_seed(0)
    Wav2Vec2BertForCTC(config).save_pretrained(tmp_path)
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), bos_token=None, eos_token=None)
    Wav2Vec2BertProcessor(SeamlessM4TFeatureExtractor(), tokenizer).save_pretrained(tmp_path)
    recognizer = load_recognizer(tmp_path)
    expert = {name: value + 0.1 * torch.randn_like(value) for name, value in recognizer.model.state_dict().items()}
    weights = MergedWeights(recognizer.model, {"one": expert})
    audio = [np.random.default_rng(0).normal(0, 0.1, 9600).astype(np.float32)]
    assert len(recognizer.transcribe(audio)) == 1
    batch = {**recognizer.features(audio), "labels": recognizer.labels(["ab"])}
    loss, gradient = weights.measure(torch.full((len(weights.groups), 1), 0.5), [lambda: recognizer.loss(batch)])
    assert bool(torch.isfinite(loss)) and float(gradient.abs().max()) > 0
