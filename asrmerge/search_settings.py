"""A search as users write it: under ``search`` in a run's configuration, or on the command line."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from asrmerge.validation import Section


class Budget(Section):
    """Bounds of a search; what is not given has none. The first that is reached ends it.

    ``utterances`` counts every utterance that a candidate is decoded on, also those that an interrupted search decoded before.
    """

    candidates: int | None = Field(default=None, ge=1, description="merges that are tried, the base and the experts among them")
    utterances: int | None = Field(default=None, ge=1, description="decoded by any candidate")
    minutes: float | None = Field(default=None, gt=0, description="of this and of interrupted runs of the same search")

    @property
    def is_bounded(self) -> bool:
        """Whether there is any bound."""
        return self != Budget()


class ObjectiveSettings(Section):
    """What users write; of a plain string, ``kind``, with ``relative`` for the relative macro average.

    The figure of a domain is its WER, or (1 − ``term_weight``)·WER + ``term_weight``·(share of its terms missed). With
    ``relative``, WERs are divided by those of the domain's own expert. ``macro`` is the figures' mean; ``weighted`` their mean by
    ``traffic``; ``worst`` the smooth maximum (1/s)·log mean exp(s·figure) with s = ``sharpness``, which lies between the maximum
    less log(K)/s and the maximum, for K domains.
    """

    kind: Literal["macro", "worst", "weighted"] = "macro"
    relative: bool = False
    traffic: dict[str, float] = Field(default_factory=dict, description="domain → its share of what will be transcribed")
    term_weight: float = Field(default=0.0, ge=0.0, le=1.0, description="of the share of terms missed, beside the WER")
    sharpness: float = Field(default=50.0, gt=0.0, description="s of the smooth maximum")

    @property
    def title(self) -> str:
        """What it is called in charts and tables."""
        rate = "WER relative to the experts'" if self.relative else "WER"
        terms = f" with terms missed ({self.term_weight:g})" if self.term_weight else ""
        average = {"macro": "macro-average", "worst": "worst domain's", "weighted": "traffic-weighted"}[self.kind]
        return f"{average} {rate}{terms}"

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, content: Any) -> Any:
        if isinstance(content, str):
            return {"kind": "macro", "relative": True} if content == "relative" else {"kind": content}
        return content

    @model_validator(mode="after")
    def _traffic_fits(self) -> ObjectiveSettings:
        if (self.kind == "weighted") != bool(self.traffic):
            raise ValueError("the kind 'weighted' needs 'traffic', the share of each domain, and no other kind takes it")
        if any(share < 0 for share in self.traffic.values()) or (self.traffic and sum(self.traffic.values()) == 0):
            raise ValueError("the shares in 'traffic' must not be negative, and not all zero")
        return self


class SearchSettings(Section):
    """Merges that are tried, how they are judged, and what may be spent."""

    strategy: str | dict[str, Any] | None = Field(
        default=None,
        description="name, or name and options; nsga2 for several objectives, surface with 'trials', else auto",
    )
    # Of different kinds, without statistics: which one is best differs from base to base.
    methods: tuple[str, ...] | dict[str, dict[str, Any] | None] = ("task_arithmetic", "tsv_m", "iso_c")
    groups: tuple[str, ...] = Field(default=(), description="structural groups with weights of their own")
    depth: bool = Field(default=False, description="whether every weight runs from the first layer to the last")
    maximum_coefficient: float | None = Field(default=None, gt=0, description="of every weight; the methods' own if not given")
    objective: ObjectiveSettings = ObjectiveSettings()
    further_objectives: tuple[ObjectiveSettings, ...] = ()
    pick: str | None = Field(
        default=None, pattern=r"^(knee|front-[1-9]\d*)$", description="of several objectives, the front's point that is merged"
    )
    constraints: tuple[str, ...] = ()
    budget: Budget = Budget()
    trials: int | None = Field(default=None, ge=0, description="candidates after those that every search without races evaluates")
    curve: tuple[float, ...] = Field(default=(0.2, 0.4, 0.6, 0.8, 1.0), description="λ that a search without races evaluates")
    soup: bool = Field(default=True, description="whether such a search evaluates the greedy soup")

    @model_validator(mode="after")
    def _front_to_pick_from(self) -> SearchSettings:
        if self.pick is not None and not self.further_objectives:
            raise ValueError("'pick' names a point of a front, and there is none: give 'further_objectives'")
        return self

    @property
    def method_names(self) -> tuple[str, ...]:
        """Of the methods that are searched."""
        return tuple(self.methods)
