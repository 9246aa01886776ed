"""Greedy decoding of Whisper from encoder states, with the same tokens as ``generate`` and less around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig, WhisperForConditionalGeneration

from asrmerge.recognizers.computing import best_tokens


@dataclass(frozen=True)
class TokenRules:
    """Which tokens end a transcript, and which are never chosen, anywhere or as the first."""

    end: tuple[int, ...]
    suppress: tuple[int, ...] = ()
    begin_suppress: tuple[int, ...] = ()

    @classmethod
    def from_generation_config(cls, config: GenerationConfig) -> TokenRules:
        """The rules of a checkpoint; its settings for sampling and beams have no place in greedy decoding."""
        end = config.eos_token_id
        return cls(
            end=tuple(end) if isinstance(end, (list, tuple)) else (end,),
            suppress=tuple(config.suppress_tokens or ()),
            begin_suppress=tuple(config.begin_suppress_tokens or ()),
        )


@torch.inference_mode()
def greedy_tokens(
    model: WhisperForConditionalGeneration,
    encoder_states: Tensor,
    *,
    prompt: Sequence[int],
    limits: Sequence[int],
    rules: TokenRules,
) -> list[list[int]]:
    """The most probable token at each step, per row, up to and with the end token or until the row's limit.

    Args:
        encoder_states: ``[batch, positions, width]``, in the model's dtype.
        prompt: ids that every row starts from, the decoder's start token first; not in the result.
        limits: most tokens of each row; what stops a row that repeats itself.
    """
    device = encoder_states.device
    suppress = torch.tensor(rules.suppress, dtype=torch.long, device=device)
    begin_suppress = torch.tensor(rules.begin_suppress, dtype=torch.long, device=device)
    end = torch.tensor(rules.end, dtype=torch.long, device=device)
    bounds = torch.tensor(limits, device=device)
    rows = torch.arange(len(limits), device=device)
    finished = bounds <= 0
    chosen = torch.empty((max(limits, default=0), len(limits)), dtype=torch.long, device=device)
    lengths = torch.zeros(len(limits), dtype=torch.long, device=device)

    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    inputs = torch.tensor([list(prompt)], device=device).expand(len(limits), -1)
    for step in range(len(chosen)):
        if bool(finished.all()):
            break
        # Dropping a row copies the cache of the others, which costs about two steps; so they go when a quarter has finished.
        if 4 * int(finished.sum()) >= len(rows):
            kept = torch.nonzero(~finished).squeeze(1)
            rows, inputs, bounds, finished = rows[kept], inputs[kept], bounds[kept], finished[kept]
            if step:
                cache.batch_select_indices(kept)
            # After the first step cross-attention reads the cache: of the states only the number of rows counts.
            encoder_states = encoder_states[: len(kept)] if step else encoder_states[kept]
        hidden = model.model.decoder(
            input_ids=inputs, encoder_hidden_states=encoder_states, past_key_values=cache, use_cache=True
        ).last_hidden_state
        logits = model.proj_out(hidden[:, -1]).float()
        logits[:, suppress] = -torch.inf
        if step == 0:
            logits[:, begin_suppress] = -torch.inf
        token = best_tokens(logits)
        chosen[step, rows] = token
        lengths[rows[~finished]] = step + 1
        finished = finished | torch.isin(token, end) | (bounds <= step + 1)
        inputs = token[:, None]
    return [row[:length] for row, length in zip(chosen.T.tolist(), lengths.tolist(), strict=True)]
