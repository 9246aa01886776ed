"""A permuted model with its units and heads put back where its base has them, so that it can be merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.compatibility import check_compatible, read_finite
from asrmerge.checkpoints.vocabulary_alignment import aligned
from asrmerge.checkpoints.writing import check_output, write_checkpoint
from asrmerge.errors import IncompatibleError
from asrmerge.inspection.bases import check_base
from asrmerge.inspection.permutation import align, find_parts, match_part
from asrmerge.merging.references import open_model


def align_to_folder(
    model: str, base: str, output: str | Path, on_part: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write ``model`` to ``output`` with units and heads in the order of ``base``; it computes what it did before.

    Models are named as in recipes. A fine-tune of the base comes back as it is. ``output`` stays as it was on any failure.
    ``on_part`` is told the parts of layers that are matched and their number.

    Raises:
        ConfigError: ``output`` is or holds one of the models.
        CheckpointError: a model is missing or corrupt, or ``output`` is something other than a checkpoint.
        IncompatibleError: another architecture, a model that no permutation explains, or one whose units can't be moved.
    """
    output = Path(output)
    reference, checkpoint = open_model(base), open_model(model)
    check_output(output, [reference.folder, checkpoint.folder])
    check_compatible(aligned([reference, checkpoint], ["base", model]), ["base", model])
    parts = find_parts(reference)
    done = iter(range(1, len(parts) + 1))
    check = check_base(("base", reference), (model, checkpoint), parts, lambda: on_part(next(done), len(parts)))
    if check.verdict in ("different base", "unavailable"):
        raise IncompatibleError(check.sentence)
    if reference.model_type == "wavlm" and check.heads is not None and check.heads < 1:
        raise IncompatibleError(
            f"{model} has other attention heads in the places of the base's, and those of a WavLM can't be moved, since each is "
            "tied to its part of the hidden state: merge fine-tunes of one base only."
        )
    write_checkpoint(output, aligned_tensors(reference, checkpoint), donor=checkpoint)


def aligned_tensors(reference: Checkpoint, checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """All tensors of ``checkpoint`` by name, with units and heads in the order of ``reference``; one part at a time.

    Raises:
        CheckpointError: NaN or Inf in a tensor.
    """
    rest = set(checkpoint.names)
    for part in find_parts(reference):
        members = {name: read_finite(checkpoint, name) for name in (*part.inputs, *part.outputs)}
        yield from align(members, part, match_part(part, reference.read, members.__getitem__).order).items()
        rest -= members.keys()
    for name in sorted(rest):
        yield name, read_finite(checkpoint, name)
