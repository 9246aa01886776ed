"""Whisper on audio of any length by transformers' own long-form generation."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from asrmerge.speech.timed_text import Segment, TimedText


@torch.inference_mode()
def generate_long_form(
    model: WhisperForConditionalGeneration, processor: WhisperProcessor, samples: np.ndarray, *, prompt: Sequence[int]
) -> TimedText:
    """The greedy transcript of one recording ``[samples]`` with its segments; the vocabulary must have timestamps.

    One recording at a time: in a batch they depend on each other through the segments that they seek to.

    Args:
        prompt: as ``WhisperRecognizer`` has it, for its language.
    """
    extractor, tokenizer = processor.feature_extractor, processor.tokenizer
    inputs = extractor(
        samples, sampling_rate=extractor.sampling_rate, truncation=False, padding="longest", return_attention_mask=True,
        return_tensors="pt",
    )  # fmt: skip
    settings = copy.deepcopy(model.generation_config)
    settings.forced_decoder_ids = None
    settings.num_beams, settings.do_sample = 1, False
    language = {}
    if len(prompt) > 2:  # start, language, task
        language = {"language": tokenizer.convert_ids_to_tokens(prompt[1]).strip("<|>"), "task": "transcribe"}
    output = model.generate(
        inputs.input_features.to(model.device, model.dtype), attention_mask=inputs.attention_mask.to(model.device),
        generation_config=settings, return_timestamps=True, return_segments=True, condition_on_prev_tokens=False, **language,
    )  # fmt: skip
    segments = [
        Segment(float(one["start"]), float(one["end"]), tokenizer.decode(one["tokens"], skip_special_tokens=True).strip())
        for one in output["segments"][0]
    ]
    text = tokenizer.decode(output["sequences"][0], skip_special_tokens=True).strip()
    return TimedText(text, tuple(segment for segment in segments if segment.text))
