"""Tiny random recognisers of both families with fine-tunes of them, and noise with texts: what an evaluator works on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from asrmerge.speech.audio import write_audio
from asrmerge.speech.manifest import Utterance


def make_models(folder: Path, family: str, *, frozen: str = "", layers: int = 1) -> tuple[Path, dict[str, Path]]:
    """Base and two experts, whose parameters that start with ``frozen`` are the base's."""
    model, processor = _whisper(folder, layers) if family == "whisper" else _ctc(folder, layers)
    _randomize(model, 0, 2.5, "")
    base = _save(model, processor, folder / "base")
    experts = {}
    for seed, name in enumerate(["legal", "medical"], start=1):
        expert = type(model).from_pretrained(base)
        _randomize(expert, seed, 0.6, frozen)
        experts[name] = _save(expert, processor, folder / name)
    return base, experts


def make_utterances(folder: Path, domain: str, seconds: list[float], seed: int) -> list[Utterance]:
    """Noise whose loudness changes, and texts that have nothing to do with it."""
    random = np.random.default_rng(seed)
    utterances = []
    for index, duration in enumerate(seconds):
        count = round(16_000 * duration)
        samples = random.normal(0, 0.1, count) * np.abs(np.sin(np.linspace(0, 9 + index, count)))
        path = folder / domain / f"{index}.wav"
        write_audio(path, samples)
        text = " ".join(random.choice(["a", "be", "cab", "dad", "egg"], 4))
        utterances.append(Utterance(f"{domain}-{index}", path, duration, text, domain=domain))
    return utterances


def _randomize(model: torch.nn.Module, seed: int, amount: float, frozen: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fixed = "parametrizations" in name or (frozen and name.startswith(frozen)) or "encoder.embed_positions" in name
            if parameter.dim() > 1 and not fixed:
                noise = torch.randn(parameter.shape, generator=generator) * amount / parameter[0].numel() ** 0.5
                parameter.add_(noise)


def _save(model, processor, folder: Path) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _ctc(folder: Path, layers: int):
    tokens = ["<pad>", "<unk>", "|", *"abcdefghi"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), bos_token=None, eos_token=None)
    config = Wav2Vec2Config(
        vocab_size=len(tokens), hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=24,
        conv_dim=(8, 8), conv_kernel=(40, 16), conv_stride=(40, 16), num_feat_extract_layers=2, pad_token_id=0,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, feat_extract_norm="layer",
    )  # fmt: skip
    torch.manual_seed(0)
    return Wav2Vec2ForCTC(config), Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=True), tokenizer)


def _whisper(folder: Path, layers: int):
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    (folder / "vocab.json").write_text(json.dumps({**vocabulary, "<|endoftext|>": 256}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = WhisperTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|startoftranscript|>"]})
    config = WhisperConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=layers, decoder_layers=layers, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, num_mel_bins=16, max_source_positions=50,
        max_target_positions=30, pad_token_id=256, bos_token_id=256, eos_token_id=256,
        decoder_start_token_id=tokenizer.convert_tokens_to_ids("<|startoftranscript|>"),
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    model.generation_config.is_multilingual = False
    # Nothing but letters and spaces, so that there are words to be wrong.
    letters = {vocabulary[symbol] for symbol in "abcdefghi"} | {vocabulary["Ġ"], 256}
    model.generation_config.suppress_tokens = [token for token in range(len(tokenizer)) if token not in letters]
    return model, WhisperProcessor(WhisperFeatureExtractor(feature_size=16, chunk_length=1), tokenizer)
