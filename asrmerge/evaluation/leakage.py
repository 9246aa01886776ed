"""Training and test audio kept apart: a figure on audio that the model has learnt is worth nothing."""

from __future__ import annotations

from collections.abc import Sequence

from asrmerge.errors import ManifestError
from asrmerge.speech.audio import hash_audio
from asrmerge.speech.manifest import Utterance


def check_disjoint(training: Sequence[Utterance], test: Sequence[Utterance]) -> None:
    """Refuse test utterances whose audio, by the hash of its samples, was also trained or tuned on, whatever the file is called.

    Raises:
        ManifestError: naming the first such test utterance, the training utterance, and how many more there are.
        AudioError: if a file cannot be read.
    """
    learnt = {hash_audio(utterance.audio): utterance for utterance in training}
    shared = [(utterance, learnt[digest]) for utterance in test if (digest := hash_audio(utterance.audio)) in learnt]
    if not shared:
        return
    tested, trained = shared[0]
    others = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
    raise ManifestError(
        f"Test utterance '{tested.identifier}' ({tested.audio}){others} has the same audio as training utterance "
        f"'{trained.identifier}' ({trained.audio}); take it out of one of the two manifests."
    )
