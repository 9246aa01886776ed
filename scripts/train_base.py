"""Train one of the embedded tiny bases from scratch on synthesised general English.

    python scripts/train_base.py ctc     --steps 12500 --decay-share 0.45
    python scripts/train_base.py whisper --steps 10000 --decay-share 0.2

Needs espeakng-loader (``pip install 'asrmerge[demo]'``). Interrupted, the same command goes on from the last
checkpoint; the learning rate is constant, then falls to zero in the last ``--decay-share`` of ``--steps``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections import deque
from pathlib import Path

import jiwer
import numpy as np
import torch
from base_training.card import saved_word_error_rate, write_card
from base_training.ctc import CtcTraining
from base_training.whisper import WhisperTraining
from base_training.world import Corpus, augment, batches, evaluation_corpora, training_corpus

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = {"ctc": CtcTraining, "whisper": WhisperTraining}
SHORT = 1.7  # seconds: what the first steps are trained on


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    domains = ROOT / "domains"
    corpus = training_corpus(arguments.work_dir, domains, arguments.utterances, arguments.seed)
    tests = evaluation_corpora(arguments.work_dir, domains, arguments.test_utterances, arguments.seed)
    print(f"{len(corpus)} utterances, {corpus.seconds().sum() / 3600:.1f} hours; seed {arguments.seed}", flush=True)
    folder = arguments.work_dir / arguments.family
    training = FAMILIES[arguments.family](folder / "processor", corpus.texts, arguments.steps)
    training.train()
    print(f"{sum(p.numel() for p in training.model.parameters()) / 1e6:.2f} M parameters", flush=True)
    record = _train(training, corpus, tests, folder / "training.pt", arguments)
    training.eval()
    output = arguments.output or ROOT / "asrmerge" / "bases" / arguments.family
    training.save(output)
    figures = {name: saved_word_error_rate(output, test) for name, test in tests.items()}
    write_card(output, arguments.family, record, corpus, figures, len(tests["held-out voices"]), arguments.note)
    print(json.dumps({"wer": figures, "saved": str(output)}), flush=True)


def _train(
    training, corpus: Corpus, tests: dict[str, Corpus], checkpoint: Path, arguments: argparse.Namespace
) -> dict[str, float]:
    optimizers = _optimizers(training, arguments.learning_rate)
    step, seconds = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        training.load_state_dict(state["model"], strict=False)
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        step, seconds = state["step"], state["seconds"]
        print(f"going on from step {step}", flush=True)
    lengths = corpus.seconds()
    stream = itertools.islice(batches(lengths, arguments.batch_seconds, arguments.seed), step, None)
    short = np.flatnonzero(lengths < SHORT)
    short_stream = batches(lengths[short], arguments.batch_seconds, arguments.seed)
    started, heard, losses = time.monotonic(), 0.0, deque(maxlen=200)
    while step < arguments.steps:
        indices = next(stream)
        if step < arguments.short_steps:
            indices = [int(short[index]) for index in next(short_stream)]
        generator = np.random.default_rng([arguments.seed, step])
        audio = [augment(corpus.audio(index), generator) for index in indices]
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bfloat16):
            loss = training.loss(audio, [corpus.texts[index] for index in indices], step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(training.parameters(), 1.0)
        rate = _rate(step, arguments)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        heard += lengths[indices].sum()
        seconds += lengths[indices].sum()
        losses.append(loss.item())
        if step % 200 == 0:
            speed = heard / (time.monotonic() - started)
            left = (arguments.steps - step) * (time.monotonic() - started) / 200 / 60
            figures = f"loss {np.mean(losses):.3f} rate {rate:.5f} {speed:.0f}x real time"
            print(f"step {step} {figures}, {left:.0f} min left", flush=True)
            started, heard = time.monotonic(), 0.0
        if step % 1000 == 0 or step == arguments.steps:
            training.eval()
            wer = word_error_rate(training, tests["held-out voices"], 100)
            training.train()
            print(f"step {step} heard {seconds / 3600:.1f} h: WER {wer:.3f} on held-out voices", flush=True)
            state = {"model": training.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step}
            torch.save(state | {"seconds": float(seconds)}, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
            started, heard = time.monotonic(), 0.0
    return {"step": step, "seconds": float(seconds)}


def _optimizers(training, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the transformer layers, AdamW for everything else."""
    matrices, others = [], []
    for name, parameter in training.named_parameters():
        if parameter.requires_grad:
            (matrices if parameter.ndim == 2 and ".layers." in name else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, weight_decay=0.02, betas=(0.9, 0.98)),
    ]


def _rate(step: int, arguments: argparse.Namespace) -> float:
    warm = min(1.0, (step + 1) / 400)
    decay = arguments.steps * arguments.decay_share
    left = min(1.0, (arguments.steps - step) / decay)
    return arguments.learning_rate * warm * (1 - math.sqrt(1 - left) if left < 1 else 1.0)


def word_error_rate(training, corpus: Corpus, count: int) -> float:
    """Pooled WER of greedy decoding on the first ``count`` utterances, while training."""
    order = np.argsort(corpus.seconds()[:count])
    texts, heard = [], []
    for start in range(0, len(order), 16):
        part = order[start : start + 16]
        texts += [corpus.texts[index] for index in part]
        heard += training.transcribe([corpus.audio(index) for index in part])
    return float(jiwer.wer(texts, heard))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--work-dir", type=Path, default=ROOT / "build" / "base", help="corpora and the training checkpoint")
    parser.add_argument("--output", type=Path, help="where the base is written (default: asrmerge/bases/FAMILY)")
    parser.add_argument("--steps", type=int, default=12_500)
    parser.add_argument("--short-steps", type=int, default=800, help="first steps on short utterances only")
    parser.add_argument("--decay-share", type=float, default=0.3)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--batch-seconds", type=float, default=20.0)
    parser.add_argument("--utterances", type=int, default=40_000)
    parser.add_argument("--test-utterances", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--note", default="", help="a sentence for the model card")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
