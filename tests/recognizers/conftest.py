"""Tiny random checkpoints, tokenizer files included, and noise to feed them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Data2VecAudioConfig,
    HubertConfig,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertProcessor,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
    WavLMConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.models.auto.modeling_auto import AutoModelForCTC

CTC_CONFIGS = {
    "wav2vec2": Wav2Vec2Config,
    "hubert": HubertConfig,
    "wavlm": WavLMConfig,
    "data2vec-audio": Data2VecAudioConfig,
    "wav2vec2-bert": Wav2Vec2BertConfig,
}
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 8, 4),
    "conv_stride": (10, 8, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "pad_token_id": 0,
}


def _agitate(model: torch.nn.Module, seed: int) -> None:
    """Weights large enough that a random model says various things."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "parametrizations" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 2.5 / parameter[0].numel() ** 0.5)
            elif name.endswith("batch_norm.bias"):
                parameter.fill_(0.5)


@pytest.fixture
def make_ctc(tmp_path: Path) -> Callable[..., Path]:
    def make(model_type: str = "wav2vec2", *, upper: bool = False, mask: bool = True, seed: int = 0, **settings: Any) -> Path:
        folder = tmp_path / f"{model_type}-{seed}-{upper}-{mask}-{len(settings)}"
        folder.mkdir()
        letters = "abcdefghijklmnopqrstuvwxyz'"
        tokens = ["<pad>", "<unk>", "|", *(letters.upper() if upper else letters)]
        (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
        tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), bos_token=None, eos_token=None)
        kind = CTC_CONFIGS[model_type]
        if model_type == "wav2vec2-bert":
            settings = {"feature_projection_input_dim": 160, **settings}
            processor = Wav2Vec2BertProcessor(SeamlessM4TFeatureExtractor(), tokenizer)
        else:
            settings = {"feat_extract_norm": "layer", **settings}
            processor = Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=mask), tokenizer)
        torch.manual_seed(seed)
        model = AutoModelForCTC.from_config(kind(**{**SMALL, "vocab_size": len(tokens), **settings}))
        _agitate(model, seed)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def make_whisper(tmp_path: Path) -> Callable[..., Path]:
    def make(*, seed: int = 0, multilingual: bool = False, timestamps: bool = False, **settings: Any) -> Path:
        folder = tmp_path / f"whisper-{seed}-{multilingual}-{timestamps}-{len(settings)}"
        folder.mkdir()
        vocabulary = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
        (folder / "vocab.json").write_text(json.dumps({**vocabulary, "<|endoftext|>": 256}))
        (folder / "merges.txt").write_text("#version: 0.2\n")
        tokenizer = WhisperTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
        special = ["startoftranscript", "en", "de", "translate", "transcribe", "startofprev", "nospeech", "notimestamps"]
        names = [f"<|{name}|>" for name in special]
        tokenizer.add_special_tokens({"additional_special_tokens": names})
        ids = dict(zip(special, tokenizer.convert_tokens_to_ids(names), strict=True))
        if timestamps:
            tokenizer.add_tokens([f"<|{0.02 * step:.2f}|>" for step in range(51)])
        defaults = {
            "vocab_size": len(tokenizer), "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_mel_bins": 16,
            "max_source_positions": 50, "max_target_positions": 40, "pad_token_id": 256, "bos_token_id": 256, "eos_token_id": 256,
            "decoder_start_token_id": ids["startoftranscript"], "suppress_tokens": None, "begin_suppress_tokens": None,
        }  # fmt: skip
        torch.manual_seed(seed)
        model = WhisperForConditionalGeneration(WhisperConfig(**{**defaults, **settings}))
        _agitate(model, seed)
        generation = model.generation_config
        generation._from_model_config = False
        generation.suppress_tokens = [*range(97, 130), ids["startoftranscript"], ids["translate"], ids["nospeech"]]
        generation.begin_suppress_tokens = [220, 256]
        generation.no_timestamps_token_id = ids["notimestamps"]
        generation.is_multilingual = multilingual
        generation.max_length = 40
        if timestamps:
            generation.max_initial_timestamp_index = 10
        if multilingual:
            generation.lang_to_id = {"<|en|>": ids["en"], "<|de|>": ids["de"]}
            generation.task_to_id = {"transcribe": ids["transcribe"], "translate": ids["translate"]}
        model.save_pretrained(folder)
        WhisperProcessor(WhisperFeatureExtractor(feature_size=16, chunk_length=1), tokenizer).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def noises() -> Callable[..., list[np.ndarray]]:
    def make(*seconds: float, seed: int = 0) -> list[np.ndarray]:
        random = np.random.default_rng(seed)
        sounds = [random.normal(0, 0.1, round(16_000 * length)) for length in seconds]
        # Loudness and pitch that change let a random model change its mind.
        return [
            (sound * np.sin(np.arange(len(sound)) ** 1.3 / 3e4) + 0.2 * np.sin(np.arange(len(sound)) ** 1.2 / 9)).astype(
                np.float32
            )
            for sound in sounds
        ]

    return make
