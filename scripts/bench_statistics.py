"""What each kind of statistics costs, as a multiple of one forward pass over the same audio in the same process.

    python scripts/bench_statistics.py --work-dir build/bench
    python scripts/bench_statistics.py --model path/to/whisper --audio path/to/validation.jsonl --json figures.json

Without --audio, a shipped domain speaks (asrmerge[demo]). The forward pass is what a loss on validation audio takes: audio read,
features, labels, encoder and decoder (or CTC head), without gradient, in batches of --batch-seconds. Statistics are timed as
``asrmerge stats`` collects them once a model is loaded, from the audio's hash to the files on the disk. Forward pass and kinds
take turns, after one untimed turn of a few utterances; each repeat's figure is divided by the same repeat's forward pass, and the
median of these ratios is shown. Seconds are those of the processor: they hold no waiting for other programs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from asrmerge.content import resolve_model
from asrmerge.errors import AsrmergeError
from asrmerge.files import write_json
from asrmerge.recognizers.hearing import forward_batches, read_within_window
from asrmerge.recognizers.recognizer import DifferentiableRecognizer
from asrmerge.speech.domains import load_domain, synthesize_domain
from asrmerge.speech.manifest import Utterance, read_manifest
from asrmerge.statistics.collecting import collect_statistics
from asrmerge.statistics.modules import remove_weight_norms
from asrmerge.statistics.settings import KINDS, Kind, StatisticsSettings
from asrmerge.statistics.subject import Subject, load_subject

MODELS = ["embedded:whisper", "embedded:ctc"]
SPOKEN_SECONDS = 4.8  # as configurations have it: the embedded Whisper hears five
FORWARD = "forward"
WARMING = 4  # utterances
CASES: tuple[tuple[Kind, ...], ...] = (*((kind,) for kind in KINDS), ("fisher", "grams"), KINDS)


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    try:
        utterances = _utterances(arguments)
        rows = [_measure(model, utterances, arguments) for model in arguments.model]
    except AsrmergeError as error:
        sys.exit(f"bench_statistics: {error}")
    print(_report(rows, arguments))
    if arguments.json:
        write_json(arguments.json, rows)


def _measure(model: str, utterances: Sequence[Utterance], arguments: argparse.Namespace) -> dict[str, Any]:
    """Every figure of one model."""
    subject = load_subject(resolve_model(model))
    remove_weight_norms(subject.recognizer.model)  # at the first collection the model would become faster
    window = subject.recognizer.window_seconds
    heard = [one for one in utterances if window is None or one.duration <= window]
    if not heard:
        raise AsrmergeError(f"none of the {len(utterances)} utterances fits the window of {model}; give shorter ones.")
    cases = {" + ".join(kinds): _collecting(subject, kinds, arguments) for kinds in CASES}
    ways = {FORWARD: _forward(subject.recognizer, arguments.batch_seconds), **cases}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(heard[:WARMING])
    for repeat in range(arguments.repeats):
        for name, way in ways.items():
            before = time.process_time()
            way(heard)
            seconds[name].append(time.process_time() - before)
            print(f"{model}, {name}, {repeat + 1} of {arguments.repeats}: {seconds[name][-1]:.2f} s", file=sys.stderr)
    return {
        "model": model,
        "parameters": sum(one.numel() for one in subject.recognizer.model.parameters()),
        "utterances": len(heard),
        "audio_seconds": sum(one.duration for one in heard),
        "processor_seconds": seconds,
        "ratios": {
            name: statistics.median(own / base for own, base in zip(seconds[name], seconds[FORWARD], strict=True))
            for name in cases
        },
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _forward(recognizer: DifferentiableRecognizer, batch_seconds: float) -> Callable[[Sequence[Utterance]], None]:
    def forward(utterances: Sequence[Utterance]) -> None:
        lengths = [round(one.duration * recognizer.sampling_rate) for one in utterances]
        with torch.no_grad():
            for batch in forward_batches(recognizer, lengths, batch_seconds):
                chosen = [utterances[index] for index in batch]
                audio = [read_within_window(recognizer, one) for one in chosen]
                labels = recognizer.labels([one.text for one in chosen])
                recognizer.logits({**recognizer.features(audio), "labels": labels})

    return forward


def _collecting(
    subject: Subject, kinds: tuple[Kind, ...], arguments: argparse.Namespace
) -> Callable[[Sequence[Utterance]], None]:
    settings = StatisticsSettings(kinds=kinds, fisher=arguments.fisher, batch_seconds=arguments.batch_seconds)

    def collect(utterances: Sequence[Utterance]) -> None:
        with tempfile.TemporaryDirectory(dir=arguments.work_dir) as folder:
            collect_statistics(subject, utterances, Path(folder), settings)

    return collect


def _utterances(arguments: argparse.Namespace) -> list[Utterance]:
    """Those of the manifests, or a shipped domain's validation sentences, spoken."""
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    manifests = arguments.audio or [
        synthesize_domain(
            load_domain(arguments.domain),
            {"validation": arguments.spoken},
            arguments.work_dir / "speech",
            maximum_seconds=SPOKEN_SECONDS,
        )["validation"]
    ]
    return [utterance for manifest in manifests for utterance in read_manifest(manifest)[: arguments.most]]


def _report(rows: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> str:
    lines = [
        f"{rows[0]['threads']} threads, batches of {arguments.batch_seconds:g} s, {arguments.fisher} Fisher, medians of "
        f"{arguments.repeats}; torch {rows[0]['torch']}\n",
        f"| model | million parameters | utterances, minutes | forward s | {' | '.join(rows[0]['ratios'])} |",
        f"|---|--:|--:|--:|{'--:|' * len(CASES)}",
    ]
    for row in rows:
        cells = [row["model"], f"{row['parameters'] / 1e6:.1f}", f"{row['utterances']}, {row['audio_seconds'] / 60:.1f}"]
        cells += [f"{statistics.median(row['processor_seconds'][FORWARD]):.2f}"]
        cells += [f"{ratio:.2f} ×" for ratio in row["ratios"].values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", action="append", help=f"folder, hub id or embedded:NAME, repeatable; default: {', '.join(MODELS)}"
    )
    parser.add_argument("--audio", action="append", type=Path, help="NeMo JSON lines, repeatable; else a domain speaks")
    parser.add_argument("--domain", default="conversation", help="shipped domain that speaks, or a folder")
    parser.add_argument("--spoken", type=int, default=60, help="utterances of the domain that speaks")
    parser.add_argument("--most", type=int, help="only so many utterances of each manifest")
    parser.add_argument(
        "--work-dir", type=Path, default=Path("build/bench_statistics"), help="folder that keeps what the domain said"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-seconds", type=float, default=60.0, help="of audio in a batch, where no gradients are taken")
    parser.add_argument("--fisher", choices=["sampled", "empirical"], default="sampled")
    parser.add_argument("--json", type=Path, help="file for every timing")
    arguments = parser.parse_args()
    arguments.model = arguments.model or MODELS
    if min(arguments.repeats, arguments.threads, arguments.spoken, arguments.batch_seconds) < 1:
        parser.error("--repeats, --threads, --spoken and --batch-seconds must be at least 1")
    return arguments


if __name__ == "__main__":
    main()
