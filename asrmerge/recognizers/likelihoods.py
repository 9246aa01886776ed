"""Likelihoods, samples and entropies of what a recogniser says: of tokens one by one, and of CTC's sums over alignments."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IGNORED = -100  # what transformers pads labels with


def token_negative_log_likelihoods(logits: Tensor, labels: Tensor) -> Tensor:
    """−log p(tokens | audio, tokens before) of every utterance, in nats, summed over its tokens: [batch].

    Shapes: logits [batch, length, vocabulary], labels [batch, length], -100 where there is no token.
    """
    return F.cross_entropy(logits.float().transpose(1, 2), labels, reduction="none", ignore_index=IGNORED).sum(1)


def draw_tokens(logits: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """A token from each position's distribution where ``labels`` have one; -100 elsewhere: [batch, length]."""
    drawn = _draw(logits, generator)
    return torch.where(labels == IGNORED, labels, drawn)


def token_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Entropy of the distributions at each utterance's tokens, in nats, as a mean over them: [batch]."""
    real = labels != IGNORED
    return _mean(_entropy(logits), real)


def ctc_negative_log_likelihoods(
    logits: Tensor, lengths: Tensor, labels: Tensor, blank: int, *, zero_infinity: bool = False
) -> Tensor:
    """−log Σ p(alignment) over all alignments of each text, in nats; infinite where it does not fit in its audio: [batch].

    Shapes: logits [batch, frames, vocabulary], lengths [batch] in frames, labels [batch, length], -100 where padded.
    ``zero_infinity``: what does not fit counts as zero instead, and has no gradient.
    Source: Graves et al., Connectionist Temporal Classification, ICML 2006.
    """
    real = labels != IGNORED
    # cuDNN's CTC has no determinism and bounds on lengths; transformers switches it off, too.
    with torch.backends.cudnn.flags(enabled=False):
        losses: Tensor = F.ctc_loss(
            logits.float().log_softmax(-1).transpose(0, 1),
            labels.masked_select(real),
            lengths,
            real.sum(1),
            blank=blank,
            reduction="none",
            zero_infinity=zero_infinity,
        )
    return losses


def draw_ctc_labels(logits: Tensor, lengths: Tensor, blank: int, generator: torch.Generator) -> Tensor:
    """A text of each utterance drawn from p(text | audio), -100 where padded: [batch, length].

    Exact: frames are independent given the audio, so a token of each frame, repeats collapsed and blanks dropped, is such a draw.
    """
    paths = _draw(logits, generator)
    rows = []
    for path, length in zip(paths, lengths.tolist(), strict=True):
        collapsed = torch.unique_consecutive(path[:length])
        rows.append(collapsed[collapsed != blank])
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)


def frame_entropies(logits: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """Entropy of each utterance's frames, in nats, as a mean over those whose best token is no blank: [batch].

    Most frames of a CTC model are blank whatever was said, with next to no entropy: they would drown the others.
    """
    frames = torch.arange(logits.shape[1], device=logits.device)
    spoken = (frames < lengths[:, None]) & (logits.argmax(-1) != blank)
    return _mean(_entropy(logits), spoken)


def _draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    probabilities = logits.detach().float().softmax(-1)
    # On the CPU, so that a seed means the same on every device.
    flat = probabilities.cpu().flatten(0, 1)
    return torch.multinomial(flat, 1, generator=generator).view(logits.shape[:2]).to(logits.device)


def _entropy(logits: Tensor) -> Tensor:
    log_probabilities = logits.float().log_softmax(-1)
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen, values, 0.0).sum(1) / chosen.sum(1).clamp(min=1)
