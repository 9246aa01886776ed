"""What a search found, in sentences that hold beside its figures: for the terminal, the report and the model card."""

from __future__ import annotations

from asrmerge.search.result import SearchResult

_TITLES = {"base": "the base", "uniform": "the uniform average", "experts": "the best single expert"}


def findings(result: SearchResult) -> tuple[str, ...]:
    """Broken constraints, what no merge beats, how well the loss ranked, how far figures flatter, the effort: what applies."""
    found = []
    if not result.best.feasible:
        found.append("No candidate keeps every constraint; the best is the nearest.")
    if beaten := [_TITLES[name] for name, better in result.beats.items() if not better]:
        found.append(f"No merge that was tried beats {' or '.join(beaten)}: consider that in its place.")
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
