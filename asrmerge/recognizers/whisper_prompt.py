"""The tokens that a Whisper's decoder starts from: start of transcript, language and task where multilingual, no timestamps."""

from __future__ import annotations

import logging

from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from asrmerge.errors import ConfigError

logger = logging.getLogger(__name__)

# OpenAI's own rule: vocabularies from this size on have language tokens.
_MULTILINGUAL_VOCABULARY = 51_865


def find_prompt(
    source: str, model: WhisperForConditionalGeneration, processor: WhisperProcessor, language: str | None
) -> tuple[int, ...]:
    """The tokens that ``generate`` starts from for this language; by default the one that the model's files name, else English.

    Raises:
        ConfigError: the model has no such language.
    """
    generation, tokenizer = model.generation_config, processor.tokenizer
    prompt = [model.config.decoder_start_token_id]
    multilingual = getattr(generation, "is_multilingual", None)
    if multilingual is None:
        multilingual = model.config.vocab_size >= _MULTILINGUAL_VOCABULARY
    if multilingual:
        chosen = language or getattr(generation, "language", None) or getattr(tokenizer, "language", None)
        if chosen is None:
            logger.warning("%s is multilingual and names no language: English is assumed; set it if it is another.", source)
            chosen = "en"
        code = TO_LANGUAGE_CODE.get(chosen.lower(), chosen.lower()).strip("<|>")
        names = (f"<|{code}|>", "<|transcribe|>")
        ids = [tokenizer.convert_tokens_to_ids(name) for name in names]
        if None in ids or tokenizer.convert_tokens_to_ids("<|endoftext|>") in ids:
            raise ConfigError(f"{source} has no language {chosen!r}.")
        prompt += ids
    marker = getattr(generation, "no_timestamps_token_id", None)
    return tuple(prompt) if marker is None else (*prompt, marker)
