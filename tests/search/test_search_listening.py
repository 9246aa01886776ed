"""Transcripts kept on the disk, and what is counted of them."""

from __future__ import annotations

from pathlib import Path

from asrmerge.evaluation.normalizers import normalizer
from asrmerge.search.blocks import AudioPlan, plan_audio
from asrmerge.search.candidate import Candidate, CandidateError, fixed_candidates, scaled_sum
from asrmerge.search.counts import SearchCounts
from asrmerge.search.hypothesis_cache import HypothesisCache, merge_hash
from asrmerge.search.listening import Listener
from asrmerge.search.racing import Totals
from asrmerge.speech.manifest import Utterance

TEXTS = ["the heart rate", "give metoprolol now", "nothing here"]
MERGE = scaled_sum("merge", {"legal": 0.5, "medical": 0.5})


class Model:
    """Hears every text, but takes the heart for a hart."""

    def __init__(self) -> None:
        utterances = [Utterance(f"u{index}", Path("x"), 1.0, text, domain="medical") for index, text in enumerate(TEXTS)]
        self.plan: AudioPlan = plan_audio({"medical": utterances}, fractions=(0.5, 1.0))
        self.asked: list[tuple[str, int]] = []

    def transcribe(self, asked):
        found = []
        for candidate, look in asked:
            self.asked.append((candidate.label, look))
            if candidate.label == "broken":
                found.append(CandidateError("NaN"))
            else:
                block = self.plan.block("medical", look)
                found.append({"medical": tuple(one.text.replace("heart", "hart") for one in block)})
        return found


def listen(model: Model, path: Path | None, asked: list[tuple[Candidate, int]]):
    with HypothesisCache(path) as cache:
        return Listener(model, cache, normalizer("none"), {"medical": ("heart rate", "metoprolol")})(asked)


def test_errors_and_terms_are_counted_by_utterance(tmp_path):
    model = Model()
    [first] = listen(model, None, [(MERGE, 0)])
    found = dict(zip([one.text for one in model.plan.block("medical", 0)], first.scores["medical"], strict=True))
    assert found == {
        "the heart rate": SearchCounts(3, 1, terms=1, found=0),
        "give metoprolol now": SearchCounts(3, terms=1, found=1),
        "nothing here": SearchCounts(2),
    }
    with HypothesisCache(None) as cache:
        assert Listener(model, cache, normalizer("none"), {"medical": ("heart rate",)}).totals == {"medical": Totals(3, 8, 1)}


def test_nothing_is_decoded_twice_not_even_by_the_next_process(tmp_path):
    path = tmp_path / "hypotheses.jsonl"
    model, next_model = Model(), Model()
    same = Candidate("another name", "linear", {"legal": 1.0, "medical": 1.0}, {"normalize": True})
    first = listen(model, path, [(MERGE, 0)])
    assert listen(next_model, path, [(same, 0), (MERGE, 0)]) == first * 2 and next_model.asked == []
    base = fixed_candidates(["legal", "medical"])[0]
    listen(next_model, path, [(base, 0)])
    assert next_model.asked == [("base", 0)]
    path.write_bytes(path.read_bytes()[:-9])  # as a power failure leaves it
    listen(next_model, path, [(base, 0), (MERGE, 0)])
    assert next_model.asked == [("base", 0)] * 2


def test_a_broken_candidate_says_why_and_the_others_go_on(tmp_path):
    broken = scaled_sum("broken", {"legal": 9.0, "medical": 0.5})
    found = listen(Model(), tmp_path / "h.jsonl", [(broken, 0), (MERGE, 0)])
    assert (found[0].scores, found[0].error) == (None, "NaN") and found[1].scores is not None


def test_a_merges_name_is_that_of_its_weights():
    zero = scaled_sum("zero", {"legal": 0.0, "medical": 0.0})
    base = fixed_candidates(["legal", "medical"])[0]
    assert merge_hash(zero) != merge_hash(base)  # the base to the bit, against a base in float32
    assert merge_hash(MERGE) == merge_hash(scaled_sum("x", {"medical": 0.5, "legal": 0.5}))
    groups = Candidate("g", "task_arithmetic", {"legal": 0.5, "medical": 0.5}, groups={"encoder": {"legal": 0.1}})
    assert merge_hash(groups) != merge_hash(MERGE)
