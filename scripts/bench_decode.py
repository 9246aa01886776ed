"""Decode the same audio with asrmerge and with ``transformers.pipeline`` at batch size 1, in one process, and compare.

    python scripts/bench_decode.py --work-dir build/bench
    python scripts/bench_decode.py --model path/to/whisper --manifest path/to/test.jsonl --json figures.json

Without --manifest, the shipped domains speak (asrmerge[demo]). Samples are in memory before the time is taken, so that both sides
are timed from samples to texts. The two take turns, after one untimed utterance each; seconds are medians over the repeats, the
ratio is the median of those of neighbouring runs. Where other programs compete for the processors, the processor seconds of one
thread say more (--threads 1): they hold no waiting. Transcripts are compared utterance by utterance. The pipeline decodes Whisper
greedily (num_beams=1), as asrmerge does; it has no bound on an utterance's tokens, which shows where it repeats itself.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asrmerge.content import resolve_model, shipped_domains
from asrmerge.errors import AsrmergeError
from asrmerge.evaluation.decoding import describe
from asrmerge.files import write_json
from asrmerge.recognizers import Recognizer, load_recognizer
from asrmerge.speech.audio import read_utterance
from asrmerge.speech.domains import load_domain, synthesize_domain
from asrmerge.speech.manifest import Utterance, read_manifest

MODELS = ["embedded:whisper", "embedded:ctc"]
SPOKEN_SECONDS = 4.8  # as configurations have it: the embedded Whisper hears five
SHOWN = 3  # differences


@dataclass(frozen=True)
class Side:
    """One way to decode: what each repeat took, by the clock and of the processors, and the transcripts, the same in all."""

    seconds: list[float]
    processor_seconds: list[float]
    texts: list[str]


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    try:
        utterances = _utterances(arguments)
        rows = [_measure(model, utterances, arguments) for model in arguments.model]
    except AsrmergeError as error:
        sys.exit(f"bench_decode: {error}")
    print(_report(rows, arguments))
    if arguments.json:
        write_json(arguments.json, rows)


def _measure(model: str, utterances: Sequence[Utterance], arguments: argparse.Namespace) -> dict[str, Any]:
    """Every figure of one model."""
    source = resolve_model(model)
    precisions = ["float32", *(["bfloat16"] if arguments.bfloat16 else [])]
    recognizers = {one: load_recognizer(source, precision=one, language=arguments.language) for one in precisions}
    recognizer = recognizers["float32"]
    audio = [read_utterance(utterance, recognizer.sampling_rate) for utterance in utterances]
    ways: dict[str, Callable[[Sequence[np.ndarray]], list[str]]] = {"pipeline": _pipeline(source, recognizer, arguments.language)}
    for precision, loaded in recognizers.items():
        ways[precision] = lambda samples, loaded=loaded: loaded.transcribe(samples, batch_seconds=arguments.batch_seconds)
    sides = _take_turns(ways, audio, arguments.repeats, model)
    seconds = sum(map(len, audio)) / recognizer.sampling_rate
    peer = sides["pipeline"]
    return {
        "model": model,
        "utterances": len(audio),
        "audio_seconds": seconds,
        "pipeline": {
            "seconds": peer.seconds,
            "processor_seconds": peer.processor_seconds,
            "rtfx": seconds / statistics.median(peer.seconds),
        },
        "asrmerge": {
            precision: {
                "seconds": sides[precision].seconds,
                "processor_seconds": sides[precision].processor_seconds,
                "rtfx": seconds / statistics.median(sides[precision].seconds),
                "ratio": statistics.median(
                    theirs / ours for theirs, ours in zip(peer.seconds, sides[precision].seconds, strict=True)
                ),
                "differences": [
                    {"id": utterance.identifier, "pipeline": theirs, "asrmerge": ours}
                    for utterance, theirs, ours in zip(utterances, peer.texts, sides[precision].texts, strict=True)
                    if theirs != ours
                ],
                "decoding": asdict(loaded.decoding_settings()),
            }
            for precision, loaded in recognizers.items()
        },
        "threads": torch.get_num_threads(),
        "versions": describe(recognizer.decoding_settings(), model=model, batch_seconds=arguments.batch_seconds).versions,
    }


def _pipeline(source: str, recognizer: Recognizer, language: str | None) -> Callable[[Sequence[np.ndarray]], list[str]]:
    import transformers
    from transformers import pipeline

    transformers.logging.set_verbosity_error()
    recognise = pipeline("automatic-speech-recognition", model=source, device="cpu", dtype=torch.float32)
    options: dict[str, Any] = {}
    if recognizer.family == "whisper":
        settings = recognizer.decoding_settings().generation
        spoken = {"language": settings["language"], "task": settings["task"]} if settings["language"] else {}
        options = {"generate_kwargs": {"num_beams": 1, **spoken}}

    def transcribe(audio: Sequence[np.ndarray]) -> list[str]:
        inputs = ({"raw": samples, "sampling_rate": recognizer.sampling_rate} for samples in audio)
        with torch.inference_mode():
            return [found["text"] for found in recognise(inputs, batch_size=1, **options)]

    return transcribe


def _take_turns(
    ways: dict[str, Callable[[Sequence[np.ndarray]], list[str]]], audio: Sequence[np.ndarray], repeats: int, model: str
) -> dict[str, Side]:
    sides = {name: Side([], [], []) for name in ways}
    for transcribe in ways.values():
        transcribe(audio[:1])
    for repeat in range(repeats):
        for name, transcribe in ways.items():
            before = time.perf_counter(), time.process_time()
            texts = [" ".join(text.split()) for text in transcribe(audio)]
            sides[name].seconds.append(time.perf_counter() - before[0])
            sides[name].processor_seconds.append(time.process_time() - before[1])
            print(f"{model}, {name}, {repeat + 1} of {repeats}: {sides[name].seconds[-1]:.2f} s", file=sys.stderr)
            if sides[name].texts not in ([], texts):
                raise AsrmergeError(f"{model}: {name} gave other transcripts when asked again.")
            sides[name].texts[:] = texts
    return sides


def _utterances(arguments: argparse.Namespace) -> list[Utterance]:
    """Those of the manifests, or the shipped domains' test sentences, spoken."""
    manifests = arguments.manifest or [
        synthesize_domain(
            load_domain(name), {"test": arguments.spoken}, arguments.work_dir / "speech", maximum_seconds=SPOKEN_SECONDS
        )["test"]
        for name in shipped_domains()
    ]
    return [utterance for manifest in manifests for utterance in read_manifest(manifest)[: arguments.most]]


def _report(rows: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> str:
    # Of the two figures in a column, the first is the pipeline's.
    lines = [
        f"{rows[0]['threads']} threads, batches of {arguments.batch_seconds:g} s, medians of {arguments.repeats}; "
        + ", ".join(f"{name} {version}" for name, version in rows[0]["versions"].items())
        + "\n",
        "| model | utterances, minutes | precision | pipeline s | asrmerge s | of the processors s | RTFx | ratio | differing |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        for precision, ours in row["asrmerge"].items():
            theirs = row["pipeline"]
            cells = [row["model"], f"{row['utterances']}, {row['audio_seconds'] / 60:.1f}", precision]
            cells += [f"{statistics.median(side['seconds']):.2f}" for side in (theirs, ours)]
            cells += [", ".join(f"{statistics.median(side['processor_seconds']):.2f}" for side in (theirs, ours))]
            cells += [", ".join(f"{side['rtfx']:.1f}" for side in (theirs, ours))]
            cells += [f"{ours['ratio']:.2f}", str(len(ours["differences"]))]
            lines.append(f"| {' | '.join(cells)} |")
    for row in rows:
        for precision, ours in row["asrmerge"].items():
            for one in ours["differences"][:SHOWN]:
                lines += [f"\n{row['model']}, {precision}, {one['id']}:"]
                lines += [f"  pipeline {one['pipeline']}", f"  asrmerge {one['asrmerge']}"]
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", action="append", help=f"folder, hub id or embedded:NAME, repeatable; default: {', '.join(MODELS)}"
    )
    parser.add_argument("--manifest", action="append", type=Path, help="NeMo JSON lines, repeatable; else the domains speak")
    parser.add_argument(
        "--work-dir", type=Path, default=Path("build/bench_decode"), help="folder that keeps what the domains said"
    )
    parser.add_argument("--spoken", type=int, default=60, help="utterances of each domain that speaks")
    parser.add_argument("--most", type=int, help="only so many utterances of each manifest")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="by default one per processor")
    parser.add_argument("--batch-seconds", type=float, default=60.0, help="of audio that asrmerge puts into a batch")
    parser.add_argument("--language", help="of multilingual Whisper models")
    parser.add_argument("--bfloat16", action="store_true", help="asrmerge in bfloat16 as well; its transcripts may differ")
    parser.add_argument("--json", type=Path, help="file for every timing, difference and setting")
    arguments = parser.parse_args()
    arguments.model = arguments.model or MODELS
    if min(arguments.repeats, arguments.threads, arguments.spoken, arguments.batch_seconds) < 1:
        parser.error("--repeats, --threads, --spoken and --batch-seconds must be at least 1")
    return arguments


if __name__ == "__main__":
    main()
