"""How an expert is fine-tuned."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from asrmerge.experts.transcripts import TranscriptStyle
from asrmerge.validation import Section


class FinetuneSettings(Section):
    """Gentle by default: large task vectors don't merge."""

    steps: int = Field(default=200, ge=1, description="at most; ends earlier when the validation loss flattens")
    batch_seconds: float = Field(default=24.0, gt=0, description="seconds of audio in a batch")
    learning_rate: float = Field(default=2e-4, gt=0)
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the steps over which the rate rises")
    weight_decay: float = Field(default=0.0, ge=0)
    replay: float = Field(default=0.25, ge=0, lt=1, description="share of each batch that is general speech")
    freeze: Literal["nothing", "frontend", "encoder"] = "frontend"
    transcripts: TranscriptStyle = Field(default="written", description="texts as written, in lower case, or plain words")
    speed: float = Field(default=0.0, ge=0, lt=0.5, description="training audio is played up to this share faster or slower")
    evaluate_every: int = Field(default=40, ge=1, description="steps between looks at the validation loss")
    patience: int = Field(default=2, ge=1, description="looks without improvement before the end")
    improvement: float = Field(default=0.01, ge=0, lt=1, description="relative fall of the loss that counts as improvement")
    gradient_norm: float = Field(default=1.0, gt=0)
    joint_steps: int | None = Field(default=None, ge=1, description="at most, for the joint model; steps × domains if not given")

    @model_validator(mode="after")
    def _speed_changes_encoder_states(self) -> FinetuneSettings:
        if self.speed and self.freeze == "encoder":
            raise ValueError("'speed' changes what a frozen encoder hears, whose states are computed once; set speed to 0")
        return self
