"""Tiny Whisper and wav2vec2-CTC models and their folders, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC, WhisperConfig, WhisperForConditionalGeneration

CTC_TOKENS = ["<pad>", "<unk>", "|", *"abcdefghi"]
WHISPER_TOKENS = [f"t{number}" for number in range(40)]


def tiny_ctc(seed: int = 0) -> Wav2Vec2ForCTC:
    torch.manual_seed(seed)
    return Wav2Vec2ForCTC(
        Wav2Vec2Config(
            vocab_size=len(CTC_TOKENS), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
            conv_dim=(4, 4), conv_kernel=(10, 3), conv_stride=(5, 2), num_feat_extract_layers=2,
            num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        )
    ).eval()  # fmt: skip


def tiny_whisper(seed: int = 0) -> WhisperForConditionalGeneration:
    torch.manual_seed(seed)
    return WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(WHISPER_TOKENS), d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=12, decoder_ffn_dim=12, max_source_positions=10,
            max_target_positions=6, num_mel_bins=4, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
            suppress_tokens=None, begin_suppress_tokens=None,
        )
    ).eval()  # fmt: skip


def tiny_model(family: str, seed: int = 0):
    return tiny_ctc(seed) if family == "ctc" else tiny_whisper(seed)


def fine_tuned(family: str, seed: int, amount: float = 0.1):
    """The seed-0 model with every trainable parameter moved a little, as a fine-tune would."""
    model = tiny_model(family, 0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(amount * torch.randn(parameter.shape, generator=generator))
    return model


def save(model, folder: Path, **options) -> Path:
    """The model's folder, with a vocabulary and the files that usually lie beside the weights."""
    model.save_pretrained(folder, **options)
    tokens = CTC_TOKENS if model.config.model_type == "wav2vec2" else WHISPER_TOKENS
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "preprocessor_config.json").write_text('{"sampling_rate": 16000}')
    (folder / "LICENSE").write_text("licence")
    (folder / "README.md").write_text("card")
    return folder


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
