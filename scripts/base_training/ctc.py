"""The embedded wav2vec2-CTC base: its shape, its start, its training loss."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

CHARACTERS = ["<pad>", "<unk>", "|", "'", *"abcdefghijklmnopqrstuvwxyz"]


class CtcTraining(nn.Module):
    """A Wav2Vec2ForCTC of 3.4 M parameters with its processor; ``forward`` gives the loss of a batch."""

    def __init__(self, folder: Path, texts: Sequence[str], total_steps: int) -> None:
        super().__init__()
        self.processor = _processor(folder)
        self.model = Wav2Vec2ForCTC(_config())
        _initialise(self.model)

    def loss(self, audio: Sequence[np.ndarray], texts: Sequence[str], step: int) -> Tensor:
        """CTC loss per character."""
        inputs = self.processor(list(audio), sampling_rate=16_000, padding=True, return_tensors="pt")
        labels = [torch.tensor(self.processor.tokenizer(text).input_ids) for text in texts]
        padded = nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
        total: Tensor = self.model(**inputs, labels=padded).loss
        return total / sum(len(label) for label in labels)

    @torch.no_grad()
    def transcribe(self, audio: Sequence[np.ndarray]) -> list[str]:
        inputs = self.processor(list(audio), sampling_rate=16_000, padding=True, return_tensors="pt")
        return list(self.processor.batch_decode(self.model(**inputs).logits.argmax(-1)))

    def save(self, folder: Path) -> None:
        """Write the plain Hugging Face layout, float16."""
        half = Wav2Vec2ForCTC(self.model.config)
        half.load_state_dict(self.model.state_dict())
        half.half().save_pretrained(folder)
        self.processor.save_pretrained(folder)
        # transformers 5 keeps it in processor_config.json only, where other tools do not look.
        self.processor.feature_extractor.save_pretrained(folder)


def _config() -> Wav2Vec2Config:
    return Wav2Vec2Config(
        vocab_size=len(CHARACTERS),
        hidden_size=224,
        num_hidden_layers=5,
        num_attention_heads=4,
        intermediate_size=896,
        conv_dim=(64, 96, 224),
        conv_kernel=(64, 8, 8),
        conv_stride=(20, 4, 4),
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=31,
        num_conv_pos_embedding_groups=14,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
        apply_spec_augment=False,
        ctc_loss_reduction="sum",
        ctc_zero_infinity=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )


def _processor(folder: Path) -> Wav2Vec2Processor:
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({token: index for index, token in enumerate(CHARACTERS)}))
    tokenizer = Wav2Vec2CTCTokenizer(
        str(vocabulary), bos_token=None, eos_token=None, unk_token="<unk>", pad_token="<pad>", word_delimiter_token="|"
    )
    extractor = Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=16_000, padding_value=0.0, do_normalize=True, return_attention_mask=True
    )
    return Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)


def _initialise(model: Wav2Vec2ForCTC) -> None:
    """First convolution as Gabor filters on a mel scale: noise there costs a from-scratch model most of its first hour."""
    weight = model.wav2vec2.feature_extractor.conv_layers[0].conv.weight
    channels, _, length = weight.shape
    mel = torch.linspace(2595 * math.log10(1 + 80 / 700), 2595 * math.log10(1 + 7600 / 700), channels // 2)
    frequency = 700 * (10 ** (mel / 2595) - 1)
    time = (torch.arange(length) - (length - 1) / 2) / 16_000
    window = torch.hann_window(length, periodic=False)
    phase = 2 * math.pi * frequency[:, None] * time[None]
    filters = torch.cat([torch.cos(phase), torch.sin(phase)]) * window
    with torch.no_grad():
        weight.copy_((filters / filters.norm(dim=1, keepdim=True))[:, None])
