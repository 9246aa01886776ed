"""Merge a finished run's experts with every method, and print test WER per domain.

    python scripts/compare_methods.py runs/quickstart
    python scripts/compare_methods.py runs/quickstart-ctc

Experts have equal weights. A method's scale λ is the one of --scales with the lowest macro-average WER on the validation audio;
its other parameters are the defaults. Methods for two experts only, and those that need more than experts, are left out by name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console

from asrmerge.config import RunConfig, read_config
from asrmerge.content import resolve_model
from asrmerge.errors import AsrmergeError
from asrmerge.evaluation.counts import ErrorCounts
from asrmerge.files import write_json
from asrmerge.merging.registry import find_methods
from asrmerge.pipeline.data import GENERAL, prepare_data
from asrmerge.progress import ProgressView
from asrmerge.search.candidate import Candidate
from asrmerge.search.evaluator import CandidateEvaluator

LEFT_OUT = {
    "wise_ft": "takes one expert",
    "slerp": "takes two experts",
    "nuslerp": "takes two experts",
    "fisher_karcher": "needs Fisher information",
    "passthrough": "puts layers together",
}
Counts = Mapping[str, ErrorCounts]


def main() -> None:
    arguments = _arguments()
    config = read_config(arguments.run / "config.yaml")
    experts = {
        name: resolve_model(source.expert) if source.expert else str(arguments.run / "experts" / name)
        for name, source in config.domains.items()
    }
    with ProgressView(Console(stderr=True)) as view:
        data = prepare_data(config, view)
        validation = {name: data[name].validation for name in experts}
        test = {name: content.test for name, content in data.items()}
        candidates = list(_candidates(list(experts), arguments.scales))
        tuned = _evaluate(config, experts, validation, candidates, view, "validation")
        chosen = list(_best(candidates, tuned, list(experts)))
        figures = _evaluate(config, experts, test, chosen, view, "test")
    rows = sorted(zip(chosen, figures, strict=True), key=lambda row: _macro(row[1], list(experts)))
    print(_table(rows, list(experts)))
    print("\nLeft out: " + "; ".join(f"{name} {reason}" for name, reason in LEFT_OUT.items()) + ".")
    if arguments.json:
        rates = [{**one.to_json(), "wer": {name: count.wer for name, count in counts.items()}} for one, counts in rows]
        write_json(arguments.json, rates)


def _candidates(experts: list[str], scales: list[float]) -> Iterator[Candidate]:
    yield Candidate("base", "task_arithmetic", dict.fromkeys(experts, 0.0), kind="base")
    for expert in experts:
        yield Candidate(f"{expert} expert", "linear", {name: float(name == expert) for name in experts}, kind="expert")
    for name, method in find_methods().items():
        if name in LEFT_OUT:
            continue
        weights = dict.fromkeys(experts, 1.0)
        if "scale" in method.parameters.model_fields:
            for scale in scales:
                yield Candidate(name, name, weights, {"scale": scale}, kind="curve")
        else:
            yield Candidate(name, name, weights, kind="uniform")


def _evaluate(
    config: RunConfig, experts: dict[str, str], audio: Mapping, candidates: list[Candidate], view: ProgressView, what: str
) -> list[Counts | None]:
    figures: list[Counts | None] = []
    with CandidateEvaluator(
        resolve_model(config.base),
        experts,
        audio,
        normalizer=config.evaluation.normalizer,
        workers=config.workers,
        precision=config.arithmetic,
    ) as evaluate:
        for number, candidate in enumerate(candidates, start=1):
            try:
                figures.append(evaluate(candidate))
            except AsrmergeError as error:
                print(f"{candidate.label} {dict(candidate.parameters)}: {error}", file=sys.stderr)
                figures.append(None)
            view.update(f"methods on {what} audio", number, len(candidates))
    return figures


def _best(candidates: list[Candidate], figures: list[Counts | None], domains: list[str]) -> Iterator[Candidate]:
    for label in dict.fromkeys(candidate.label for candidate in candidates):
        rated = [
            (_macro(counts, domains), one)
            for one, counts in zip(candidates, figures, strict=True)
            if one.label == label and counts
        ]
        if rated:
            yield min(rated, key=lambda pair: pair[0])[1]


def _macro(counts: Counts, domains: list[str]) -> float:
    return sum(counts[name].wer for name in domains) / len(domains)


def _table(rows: list[tuple[Candidate, Counts]], domains: list[str]) -> str:
    columns = [*domains, *([GENERAL] if GENERAL in rows[0][1] else [])]
    lines = [
        "| Method | λ | " + " | ".join(name.capitalize() for name in [*domains, "macro average", *columns[len(domains) :]]) + " |"
    ]
    lines.append("| --- |" + " ---: |" * (len(columns) + 2))
    for candidate, counts in rows:
        rates = (
            [counts[name].wer for name in domains]
            + [_macro(counts, domains)]
            + [counts[name].wer for name in columns[len(domains) :]]
        )
        figures = " | ".join(f"{100 * rate:.1f}" for rate in rates)
        lines.append(f"| {candidate.label} | {candidate.parameters.get('scale', '')} | {figures} |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5])
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
