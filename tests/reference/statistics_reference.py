"""Statistics of a model by brute force: one utterance at a time, a copy of the model for each, float64, loops over positions.

Nothing of asrmerge is used: models and losses are transformers', gradients autograd's, sums NumPy's.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Inputs = Mapping[str, Tensor]
Array = np.ndarray


def plain_copy(model: nn.Module) -> nn.Module:
    """A float64 copy whose weight-normed weights are plain parameters."""
    copied = copy.deepcopy(model).double().eval()
    for parent in list(copied.modules()):
        for name, old in list(parent.named_children()):
            if not (isinstance(old, nn.Conv1d) and parametrize.is_parametrized(old)):
                continue
            magnitude, direction = old.parametrizations.weight.original0, old.parametrizations.weight.original1
            norms = direction.pow(2).sum((0, 1), keepdim=True).sqrt()  # for each position of the kernel, as wav2vec2 has it
            new = nn.Conv1d(
                old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, groups=old.groups, dtype=torch.double
            )
            with torch.no_grad():
                new.weight.copy_(magnitude * direction / norms)
                new.bias.copy_(old.bias)
            setattr(parent, name, new)
    return copied


def double(inputs: Inputs) -> dict[str, Tensor]:
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def ctc_loss(model: nn.Module, inputs: Inputs, labels: Tensor, _: Tensor) -> Tensor:
    """−log p(labels | audio) as transformers' CTC models compute it."""
    model.config.ctc_loss_reduction = "sum"
    return model(**double(inputs), labels=labels[:, labels[0] >= 0]).loss


def whisper_loss(prompt: int) -> Callable[[nn.Module, Inputs, Tensor, Tensor], Tensor]:
    """−Σ log p(token) over the labels after so many of the prompt, the decoder fed what was said: transformers' mean, undone."""

    def loss(model: nn.Module, inputs: Inputs, labels: Tensor, fed: Tensor) -> Tensor:
        start = torch.full_like(fed[:, :1], model.config.decoder_start_token_id)
        text = labels.clone()
        text[:, :prompt] = -100
        result = model(**double(inputs), decoder_input_ids=torch.cat([start, fed[:, :-1]], 1), labels=text).loss
        return result * (text >= 0).sum()

    return loss


def fisher(
    model: nn.Module, utterances: Sequence[tuple[Inputs, Sequence[Tensor], Tensor]], loss: Callable[..., Tensor]
) -> dict[str, Array]:
    """The mean over utterances and draws of squared gradients; each utterance: inputs, labels of every draw, what was said."""
    sums: dict[str, Array] = {}
    count = 0
    for inputs, draws, fed in utterances:
        for labels in draws:
            own = plain_copy(model)
            loss(own, inputs, labels, fed).backward()
            for name, parameter in own.named_parameters():
                if parameter.requires_grad:
                    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    sums[name] = sums.get(name, 0) + gradient.numpy() ** 2
            count += 1
    return {name: value / count for name, value in sums.items()}


def calls(model: nn.Module, run: Callable[[nn.Module], object]) -> dict[str, tuple[Array, Array]]:
    """Inputs and outputs of every linear layer, convolution and layer (of one utterance), by name, as [positions, units]."""
    own = plain_copy(model)
    found: dict[str, tuple[Array, Array]] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, given: tuple[Tensor, ...], returned: object) -> None:
            output = returned[0] if isinstance(returned, tuple) else returned
            (rows,), (results,) = given[0].detach().numpy(), output.detach().numpy()
            if isinstance(module, nn.Conv1d):
                found[name] = windows(rows, module), results.T
            else:
                found[name] = rows, results

        return keep

    for name, module in own.named_modules():
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv1d) and module.groups == 1) or is_layer(name):
            module.register_forward_hook(hook(name))
    with torch.no_grad():
        run(own)
    return found


def is_layer(name: str) -> bool:
    parent, _, number = name.rpartition(".")
    return number.isdigit() and parent.endswith(("encoder.layers", "decoder.layers"))


def windows(samples: Array, convolution: nn.Conv1d) -> Array:
    """What a convolution sees at each of its positions, [inputs, samples] → [positions, inputs × kernel], by loops."""
    (kernel,), (stride,), (padding,) = convolution.kernel_size, convolution.stride, convolution.padding
    channels, length = samples.shape
    rows = []
    for start in range(-padding, length + padding - kernel + 1, stride):
        row = []
        for channel, offset in itertools.product(range(channels), range(kernel)):
            place = start + offset
            row.append(samples[channel, place] if 0 <= place < length else 0.0)
        rows.append(row)
    return np.array(rows)


def output_gradients(model: nn.Module, names: Sequence[str], loss: Callable[[nn.Module], Tensor]) -> dict[str, Array]:
    """The gradient of a loss with respect to the outputs of modules, [positions, units], by adding a zero to each output."""
    own = plain_copy(model)
    zeros: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., Tensor]:
        def add(_: nn.Module, __: object, output: Tensor) -> Tensor:
            zeros[name] = torch.zeros_like(output, requires_grad=True)
            return output + zeros[name]

        return add

    modules = dict(own.named_modules())
    for name in names:
        modules[name].register_forward_hook(hook(name))
    loss(own).backward()
    return {
        name: (zero.grad[0].T if isinstance(modules[name], nn.Conv1d) else zero.grad[0]).numpy()
        for name, zero in zeros.items()
        if zero.grad is not None
    }


def mean_product(rows: Array) -> Array:
    """The mean of rᵀr over the rows, by a loop."""
    total = np.zeros((rows.shape[1],) * 2)
    for row in rows:
        total += np.outer(row, row)
    return total / len(rows)


def gram(rows: Array) -> Array:
    """The mean of [x, 1]ᵀ[x, 1] over the rows x."""
    return mean_product(np.concatenate([rows, np.ones((len(rows), 1))], 1))


def counted(positions: int, real: int, padding_every: int) -> list[int]:
    """The positions that count: those of speech, and from the middle of the first group of padding each so-and-so-many-th."""
    kept = list(range(real))
    place = real + padding_every // 2
    while padding_every and place < positions:
        kept.append(place)
        place += padding_every
    return kept


def effective_rank(rows: Array) -> float:
    """exp of the entropy of the shares that the covariance's eigenvalues have."""
    values = np.linalg.eigvalsh(np.cov(rows.T, bias=True)).clip(0)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def ctc_texts(logits: Array, blank: int) -> dict[tuple[int, ...], float]:
    """p(text) of every text that so many frames can hold, by going through all alignments. Shapes: logits [frames, tokens]."""
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        text = tuple(token for token, _ in itertools.groupby(path) if token != blank)
        found[text] = found.get(text, 0.0) + float(np.prod([probabilities[frame, token] for frame, token in enumerate(path)]))
    return found
