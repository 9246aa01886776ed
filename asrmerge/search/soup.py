"""Greedy soup: which experts to average."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping

from asrmerge.errors import SearchError


def greedy_soup(
    scores: Mapping[str, float], evaluate: Callable[[tuple[str, ...]], float], *, lower_is_better: bool = True
) -> tuple[str, ...]:
    """The experts whose uniform average is best on validation data, chosen greedily (Wortsman et al., arXiv 2203.05482).

    The soup starts as the best single expert. The others are tried from best to worst, equal ones by name; each is kept if the
    soup with it scores strictly better than without. (The paper also keeps a tie; the smaller soup does as well.) So the soup is
    never worse than the best expert, on these data, and it costs one evaluation per expert but the first.

    Args:
        scores: of every expert alone, by name.
        evaluate: the score of the uniform average of these experts, two or more, on the same data and in the same unit as
            ``scores``. Where it gives NaN, the expert is not kept.
        lower_is_better: as for a word error rate; False for an accuracy.

    Returns:
        The members, in the order they were added.

    Raises:
        SearchError: no experts, or a score that is NaN.
    """
    if not scores:
        raise SearchError("a greedy soup needs at least one expert: give the score of one.")
    sign = 1 if lower_is_better else -1
    losses = {name: sign * score for name, score in scores.items()}
    for name, loss in losses.items():
        if math.isnan(loss):
            raise SearchError(f"the score of '{name}' is NaN: evaluate it again, or leave the expert out.")
    steps = soup_steps(losses)
    try:
        members = next(steps)
        while True:
            members = steps.send(sign * evaluate(members))
    except StopIteration as end:
        soup: tuple[str, ...] = end.value
        return soup


def soup_steps(losses: Mapping[str, float]) -> Generator[tuple[str, ...], float, tuple[str, ...]]:
    """The steps of :func:`greedy_soup`: yields the members of a soup, takes its loss, and returns the members of the last kept.

    ``losses``: of every expert alone, one at least, none of them NaN; lower is better.
    """
    first, *others = sorted(losses, key=lambda name: (losses[name], name))
    soup: tuple[str, ...] = (first,)
    best = losses[first]
    for name in others:
        loss = yield (*soup, name)
        if loss < best:
            soup, best = (*soup, name), loss
    return soup
