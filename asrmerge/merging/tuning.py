"""What a search tunes of a method when the user says nothing: marked where the parameter is declared."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Tuned:
    """Marks a parameter that a search tunes by default, as in ``density: Annotated[float, Tuned(0.1, 0.9)] = Field(…)``.

    Attributes:
        low, high: its range, inside of what the parameter may be.
        log: whether to search it in logarithmic steps.
    """

    low: float
    high: float
    log: bool = False


def tuned(field: FieldInfo) -> Tuned | None:
    """The mark of a parameter, where it has one."""
    return next((mark for mark in field.metadata if isinstance(mark, Tuned)), None)
