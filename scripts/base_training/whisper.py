"""The embedded Whisper base: its shape, tokenizer, and the helps that let it learn to attend from scratch.

A throw-away CTC head on the encoder gives it something to hear with before the decoder can ask; guided attention
(arXiv 1710.08969) keeps the first cross-attention near the diagonal. Both leave no trace in the saved model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

WINDOW = 5  # seconds
SPECIAL = [
    *("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>"),
    *("<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
]
VOCABULARY = 1_200
CHARACTERS = "_ 'abcdefghijklmnopqrstuvwxyz"  # "_": the CTC blank
FULL_WINDOW_SHARE = 0.15


class WhisperTraining(nn.Module):
    """A WhisperForConditionalGeneration of 3.8 M parameters with its processor and the training-time helps."""

    def __init__(self, folder: Path, texts: Sequence[str], total_steps: int) -> None:
        super().__init__()
        self.processor = _processor(folder, texts)
        tokenizer = self.processor.tokenizer
        self.special = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
        self.model = WhisperForConditionalGeneration._from_config(_config(self.special), attn_implementation="eager")
        self.model.generation_config = _generation_config(self.special)
        self.ctc_head = nn.Linear(self.model.config.d_model, len(CHARACTERS))
        self.total_steps = total_steps
        filters = torch.tensor(self.processor.feature_extractor.mel_filters, dtype=torch.float32)
        self.register_buffer("mel_filters", filters, persistent=False)

    def loss(self, audio: Sequence[np.ndarray], texts: Sequence[str], step: int) -> Tensor:
        """Cross entropy per token, plus the CTC loss and the attention guide while they still help."""
        full = (step * 2654435761 % 1000) / 1000 < FULL_WINDOW_SHARE
        states, frames = self.encode(audio, full)
        inputs, targets = self.labels(texts)
        output = self.model.model.decoder(input_ids=inputs, encoder_hidden_states=states, output_attentions=True, use_cache=False)
        logits = self.model.proj_out(output.last_hidden_state).float()
        entropy = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, label_smoothing=0.05)
        progress = step / self.total_steps
        ctc_weight = max(1.0 - 2 * progress, 0.2)
        guide_weight = max(1.0 - progress / 0.4, 0.0)
        total = entropy + ctc_weight * self._ctc(states, frames, texts)
        if guide_weight:
            attention = torch.stack([layer.mean(1) for layer in output.cross_attentions]).mean(0)
            total = total + 4 * guide_weight * _guide(attention, targets, frames)
        return total

    def encode(self, audio: Sequence[np.ndarray], full: bool) -> tuple[Tensor, Tensor]:
        """Encoder states [batch, frames, d_model] of audio padded to the longest, or to the whole window; true frames."""
        length = WINDOW * 16_000 if full else -(-max(len(samples) for samples in audio) // 320) * 320 + 320
        length = min(length, WINDOW * 16_000)
        padded = torch.zeros(len(audio), length)
        for row, samples in zip(padded, audio, strict=True):
            row[: len(samples)] = torch.from_numpy(np.ascontiguousarray(samples[:length]))
        encoder = self.model.model.encoder
        hidden = functional.gelu(encoder.conv1(self.log_mel(padded)))
        hidden = functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
        hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
        for layer in encoder.layers:
            result = layer(hidden, None)
            hidden = result[0] if isinstance(result, tuple) else result
        frames = torch.tensor([min(len(samples), length) // 320 for samples in audio])
        return encoder.layer_norm(hidden), frames

    def log_mel(self, padded: Tensor) -> Tensor:
        """WhisperFeatureExtractor's features [batch, mels, frames] for windows of any length."""
        with torch.autocast("cpu", enabled=False):
            spectrum = torch.stft(padded, 400, 160, window=torch.hann_window(400), return_complex=True)[..., :-1].abs() ** 2
            mel = (self.mel_filters.T @ spectrum).clamp(min=1e-10).log10()
            mel = torch.maximum(mel, mel.amax(dim=(1, 2), keepdim=True) - 8.0)
            return (mel + 4.0) / 4.0

    def labels(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Decoder inputs and targets [batch, length]; targets are -100 for the prompt and the padding."""
        start, notimestamps, end = (self.special[t] for t in ("<|startoftranscript|>", "<|notimestamps|>", "<|endoftext|>"))
        rows = [self.processor.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        longest = max(map(len, rows))
        inputs = torch.full((len(rows), longest + 2), end)
        targets = torch.full((len(rows), longest + 2), -100)
        for index, row in enumerate(rows):
            inputs[index, : len(row) + 2] = torch.tensor([start, notimestamps, *row])
            targets[index, 1 : len(row) + 2] = torch.tensor([*row, end])
        return inputs, targets

    def _ctc(self, states: Tensor, frames: Tensor, texts: Sequence[str]) -> Tensor:
        logits = self.ctc_head(states).float().log_softmax(-1).transpose(0, 1)
        rows = [torch.tensor([CHARACTERS.index(letter) for letter in text]) for text in texts]
        lengths = torch.tensor([len(row) for row in rows])
        allowed = torch.clamp(frames + 2, max=logits.shape[0])
        total = functional.ctc_loss(logits, torch.cat(rows), allowed, lengths, reduction="sum", zero_infinity=True)
        return total / lengths.sum()

    @torch.no_grad()
    def transcribe(self, audio: Sequence[np.ndarray]) -> list[str]:
        inputs = self.processor(list(audio), sampling_rate=16_000, return_tensors="pt")
        tokens = self.model.generate(inputs.input_features, max_new_tokens=40)
        return [text.strip() for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]

    def save(self, folder: Path) -> None:
        """Write the plain Hugging Face layout, float16."""
        half = WhisperForConditionalGeneration(self.model.config)
        half.generation_config = self.model.generation_config
        # With this mark transformers 5 rebuilds it from the model's config when it loads, and loses Whisper's own keys.
        half.generation_config._from_model_config = False
        half.load_state_dict(self.model.state_dict())
        half.half().save_pretrained(folder)
        self.processor.save_pretrained(folder)
        # transformers 5 keeps it in processor_config.json only, where other tools do not look.
        self.processor.feature_extractor.save_pretrained(folder)


def _config(special: dict[str, int]) -> WhisperConfig:
    return WhisperConfig(
        vocab_size=VOCABULARY + len(SPECIAL),
        num_mel_bins=40,
        d_model=192,
        encoder_layers=5,
        encoder_attention_heads=4,
        encoder_ffn_dim=768,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=768,
        max_source_positions=WINDOW * 50,
        max_target_positions=64,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        # At 0.02 the audio starts far below the sinusoidal positions and is not heard.
        init_std=0.06,
        pad_token_id=special["<|endoftext|>"],
        bos_token_id=special["<|endoftext|>"],
        eos_token_id=special["<|endoftext|>"],
        decoder_start_token_id=special["<|startoftranscript|>"],
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


def _generation_config(special: dict[str, int]) -> GenerationConfig:
    return GenerationConfig(
        max_length=64,
        pad_token_id=special["<|endoftext|>"],
        bos_token_id=special["<|endoftext|>"],
        eos_token_id=special["<|endoftext|>"],
        decoder_start_token_id=special["<|startoftranscript|>"],
        no_timestamps_token_id=special["<|notimestamps|>"],
        prev_sot_token_id=special["<|startofprev|>"],
        begin_suppress_tokens=[special["<|endoftext|>"]],
        suppress_tokens=[index for token, index in special.items() if token != "<|endoftext|>"],
        is_multilingual=False,
        return_timestamps=False,
        max_initial_timestamp_index=50,
    )


def _processor(folder: Path, texts: Sequence[str]) -> WhisperProcessor:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "merges.txt").exists():
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted("abcdefghijklmnopqrstuvwxyz'\u0120")  # the last is how byte-level BPE writes a space
        trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
        # Whisper writes a space before every word, the first one too.
        tokenizer.train_from_iterator([f" {text}" for text in texts], trainer)
        tokenizer.model.save(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text())
    lines = (folder / "merges.txt").read_text().splitlines()
    merges = [tuple(line.split()) for line in lines if line and not line.startswith("#")]
    special = {token: len(vocabulary) + index for index, token in enumerate(SPECIAL)}
    tokenizer = WhisperTokenizer(
        vocab={**vocabulary, **special}, merges=merges, extra_special_tokens=SPECIAL[1:], add_prefix_space=True
    )
    extractor = WhisperFeatureExtractor(feature_size=40, chunk_length=WINDOW)
    return WhisperProcessor(feature_extractor=extractor, tokenizer=tokenizer)


def _guide(attention: Tensor, targets: Tensor, frames: Tensor, width: float = 0.2) -> Tensor:
    """Mean attention that falls far from the diagonal: attention [batch, tokens, frames]."""
    tokens = (targets != -100).sum(1)
    row = (torch.arange(attention.shape[1])[None] - 1) / tokens[:, None]
    column = torch.arange(attention.shape[2])[None] / frames[:, None]
    penalty = 1 - torch.exp(-((row[:, :, None] - column[:, None]) ** 2) / (2 * width**2))
    used = (targets != -100)[:, :, None]
    return (attention.float() * penalty * used).sum() / tokens.sum()
