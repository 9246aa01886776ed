"""What a search found, in sentences that hold beside its figures: for the terminal, the report and the model card."""

from __future__ import annotations

from asrmerge.search.result import SearchResult
from asrmerge.search.space import IN_GROUP, weights_by_dimension

_TITLES = {"base": "the base", "uniform": "the uniform average", "experts": "the best single expert"}


def findings(result: SearchResult) -> tuple[str, ...]:
    """Of broken constraints, what no merge beats, ranges' ends, the loss's ranking, optimism and effort: what there is to say."""
    found = []
    if not result.best.feasible:
        found.append("No candidate keeps every constraint; the best is the nearest.")
    if beaten := [_TITLES[name] for name, better in result.beats.items() if not better]:
        found.append(f"No merge that was tried beats {' or '.join(beaten)}: consider that in its place.")
    if ended := _at_their_end(result):
        method, names = result.chosen.candidate.method, " and ".join(f"{name} {value:g}" for name, value in ended.items())
        wider = f"methods: {{{method}: {{weights: [0, {2 * max(ended.values()):g}]}}}}"
        found.append(f"{names}: as large as the range allows. With a wider one ({wider}) there may be a better merge.")
    if result.ranking is not None:
        found.append(
            f"The teacher-forced loss ranked {result.ranking.candidates} merges as their word errors do with a correlation of "
            f"{result.ranking.correlation:.2f} (Spearman)."
        )
    if result.optimism is not None:
        found.append(
            "The best was chosen by its errors on the validation audio: "
            f"on new audio expect about {100 * result.optimism.value:.2f} points more."
        )
    if result.spent.utterances:
        losses = f", and computed the loss of {result.spent.losses}" if result.spent.losses else ""
        found.append(f"For {len(result.trials)} candidates the search decoded {result.spent.utterances} utterances{losses}.")
    return tuple(found)


def _at_their_end(result: SearchResult) -> dict[str, float]:
    """The weights of the chosen merge that are the largest that the space allowed."""
    chosen = result.chosen.candidate
    if chosen.kind != "search" or chosen.method not in result.space:
        return {}
    limits = result.space[chosen.method]["dimensions"]
    names = [name for name in limits if name.partition(IN_GROUP)[0] in chosen.weights]  # others are the method's parameters
    weights = weights_by_dimension(chosen, chosen.method, names) or {}
    largest = {name: max(limit for limit in limits[name] if not isinstance(limit, str)) for name in weights}
    return {name: weight for name, weight in weights.items() if weight >= largest[name] - 1e-4}
