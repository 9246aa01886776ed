"""The model card: a front matter that the hub's library reads back, a body that says what is so, code that runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from card_sample import sample_data, sample_scorecard
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from report_sample import WORSE

from asrmerge.content import resolve_model
from asrmerge.evaluation.records import Scorecard
from asrmerge.report import ReportData, ReportModel
from asrmerge.report.card_metadata import DataOrigin, evaluation_results
from asrmerge.report.input_cards import InputCard, License
from asrmerge.report.model_card import model_card, write_model_card

APACHE, MIT = License("apache-2.0"), License("mit")
BASE = InputCard("org/base", APACHE, "README.md", ("en", "cs"), ("org/speech",))
OWN = InputCard(remark="none of its own: fine-tuned here", derived=True)
INPUTS = {"base": BASE, "conversation": OWN, "technical": OWN, "medical": OWN, "legal": OWN}
ORIGINS = {"legal": DataOrigin("org/court", "en"), "medical": DataOrigin(documents=("LICENSE", "README"))}


@pytest.fixture(scope="module")
def data() -> ReportData:
    return sample_data(sample_scorecard())


@pytest.fixture(scope="module")
def card(data: ReportData) -> str:
    return model_card(data, INPUTS, ORIGINS)


def body(card: str) -> str:
    return ModelCard(card).text


def section(card: str, title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", card, re.M | re.S)
    assert found is not None, title
    return found.group(1)


def test_the_hub_reads_the_front_matter_back(data: ReportData, card: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    found = ModelCard.load(tmp_path / "README.md").data
    assert found.library_name == "transformers" and found.pipeline_tag == "automatic-speech-recognition"
    assert found.tags == ["automatic-speech-recognition", "merge", "asrmerge", "whisper"]
    assert (found.base_model, found["base_model_relation"]) == (["org/base"], "merge")
    assert (found.license, found.language, found.metrics) == ("apache-2.0", ["en", "cs"], ["wer", "cer"])
    assert found.datasets == ["org/speech", "org/court"] and found.model_name == data.title
    assert found.eval_results == evaluation_results(data, ORIGINS)


def test_results_are_the_scorecard_in_per_cent(data: ReportData, card: str) -> None:
    results = ModelCard(card).data.eval_results
    assert results is not None and len(results) == 2 * len(data.domains)
    merged = data.scorecard.models["merged"].domains
    for result, (domain, metric) in zip(results, [(d, m) for d in merged for m in ("wer", "cer")], strict=True):
        figure = merged[domain].wer if metric == "wer" else merged[domain].metrics["cer"].value
        assert figure is not None
        assert result.metric_type == metric and result.metric_value == pytest.approx(100 * figure, abs=0.005)
        assert result.metric_args["normalizer"] == "whisper" and result.metric_args["substitutions"] == 1
        low, high = result.metric_args["interval"]
        assert low <= result.metric_value <= high
        expected = ("org/court", "en") if domain == "legal" else (domain, None)
        assert (result.dataset_type, result.dataset_config, result.dataset_split) == (*expected, "test")


def test_domains_of_one_data_set_keep_their_results(data: ReportData) -> None:
    shared = DataOrigin("org/court")
    index = ModelCard(model_card(data, INPUTS, {"legal": shared, "medical": shared})).data.to_dict()["model-index"]
    assert [result["dataset"]["type"] for result in index[0]["results"]] == [*data.domains]
    assert all(len(result["metrics"]) == 2 for result in index[0]["results"])


@pytest.mark.parametrize(
    ("inputs", "license", "said"),
    [
        (INPUTS, "apache-2.0", "All inputs with a licence of their own have the same: apache-2.0."),
        ({**INPUTS, "legal": InputCard("org/legal", APACHE, "README.md")}, "apache-2.0", "have the same: apache-2.0."),
        ({**INPUTS, "legal": InputCard("org/legal", MIT, "README.md")}, "other", "have no licence in common that is known"),
        ({**INPUTS, "legal": InputCard(remark="unknown (see LICENSE)")}, "other", "unknown (see LICENSE)"),
        ({name: card for name, card in INPUTS.items() if name != "base"}, "other", "have no licence in common that is known"),
        ({}, "other", "have no licence in common that is known"),
    ],
)
def test_the_licence_is_the_inputs_or_none(data: ReportData, inputs: dict[str, InputCard], license: str, said: str) -> None:
    card = model_card(data, inputs)
    assert ModelCard(card).data.license == license
    assert said in section(card, "Licences")


def test_a_licence_of_its_own_name_is_carried_over(data: ReportData) -> None:
    named = InputCard(license=License("other", "my-terms", "LICENSE"))
    found = ModelCard(model_card(data, {**INPUTS, "base": named})).data
    assert (found.license, found.license_name, found.license_link) == ("other", "my-terms", "LICENSE")


def test_only_languages_in_common_are_named(data: ReportData) -> None:
    czech = InputCard("org/legal", APACHE, "README.md", ("cs",))
    assert ModelCard(model_card(data, {**INPUTS, "legal": czech})).data.language == "cs"
    german = model_card(data, {**INPUTS, "legal": replace(czech, languages=("de",))})
    assert ModelCard(german).data.language is None and "No language is named by all inputs." in german


def test_the_body_says_how_good_it_is_and_where_others_are_better(data: ReportData, card: str) -> None:
    text = body(card)
    scores = data.scorecard.models
    assert "**Merging wins" in text
    assert f"{100 * scores['merged'].macro_wer:.1f}" in text.split("## Use")[0]
    other = text.split("better:\n")[1].split("\n\n")[0].replace("\u00a0", " ")
    best = min(data.models, key=lambda model: data.wer(model, "legal"))
    assert f"- Legal: {best.title}, {100 * data.wer(best, 'legal'):.1f} % against" in other
    for reference in ("Uniform average", "Base"):
        assert f"### Merged against {reference}\n| Domain |" in text
    kept = scores["merged"].domains["general"].retention
    assert kept is not None and kept.value is not None
    assert f"{100 * kept.value:.1f}" in section(card, "General speech")


def test_a_loss_is_said(data: ReportData) -> None:
    lost = model_card(sample_data(sample_scorecard(WORSE)), INPUTS)
    assert "**Merging loses" in lost and all(f"\n- {title}: " in lost for title in ("Medical", "Legal", "General"))
    alone = model_card(replace(data, models=(ReportModel("merged", "merged"),)), INPUTS)
    assert "Where another model" not in alone and "### Merged against" not in alone


def test_how_it_was_merged_and_how_to_do_it_again(data: ReportData, card: str) -> None:
    merged = section(card, "How it was merged")
    assert data.recipe is not None and data.recipe.text is not None
    assert f"```yaml\n{data.recipe.text}```" in merged and all(f"{item.digest}" in merged for item in data.recipe.inputs)
    assert "| legal | runs/experts/legal | 0.46 |" in merged and "general.wer \\<= 1.10" in merged
    assert data.search is not None and all(f"\n- {finding}\n" in merged for finding in data.search.findings)
    again = section(card, "Do it again")
    assert data.run.version in again and "run 3" in again and "```bash\nasrmerge run my-run.yaml\n```" in again


def test_data_and_limits_are_said(data: ReportData, card: str) -> None:
    text = section(card, "Data")
    assert "| Legal | 600 utterances, 32.0 min | 24 utterances, 1.2 min |" in text
    assert "- Legal: org/court (en)\n" in text and "- Medical: see LICENSE and README beside its manifest\n" in text
    limits = section(card, "Limits")
    scores = data.scorecard.models["merged"].domains
    assert f"{scores['general'].words} words" in limits and "normaliser whisper" in limits and "Languages: en, cs." in limits
    assert "with a phrase over and over: 1; with words although there is no sound: 1." in limits and "demonstration" not in limits
    assert "some model gave no transcript: 1 of 120 utterances" in limits
    assert "Its base is a demonstration" in section(model_card(replace(data, base="embedded:whisper")), "Limits")


def test_without_a_run_the_card_still_holds(data: ReportData) -> None:
    card: Scorecard = data.scorecard.model_copy(update={"base": None, "comparisons": (), "macro_comparisons": ()})
    bare = ReportData("Two systems", None, None, card, (ReportModel("uniform"), ReportModel("merged")))  # type: ignore[arg-type]
    text = model_card(bare)
    found = ModelCard(text).data
    assert found.tags == ["automatic-speech-recognition", "asrmerge"] and found.license is None and found.base_model is None
    assert found.eval_results == evaluation_results(bare, {})
    assert "## How it was merged" not in text and "merge_recipe" not in text and "None" not in text and "## Limits" in text


def test_hostile_names_stay_text(data: ReportData) -> None:
    hostile = "---\nlicense: mit\n---\n# <script> | `x` ``` {{ 7 * 7 }} \ud800"
    assert data.recipe is not None
    item = replace(data.recipe.inputs[0], source=hostile)
    recipe = replace(data.recipe, text="a: |\n  ```\n  # b\n  ````\n", inputs=(item, *data.recipe.inputs[1:]), method=hostile)
    run = replace(data.run, command=hostile, further={hostile: hostile})
    text = model_card(replace(data, title=hostile, base=hostile, recipe=recipe, run=run), {"base": replace(BASE, remark=hostile)})
    found = ModelCard(text)
    assert found.data.license == "other" and found.data.model_name == hostile
    tokens = MarkdownIt("commonmark").enable("table").parse(found.text)
    assert sum(token.type == "heading_open" for token in tokens) == len(re.findall(r"^#+ \w", body(model_card(data)), re.M))
    html = [token for token in tokens if token.type == "html_block"]
    assert len(html) == 1 and html[0].content.startswith("<!--")
    assert not any(child.type == "html_inline" for token in tokens for child in token.children or ())
    assert r"\{\{ 7 \* 7 \}\}" in found.text
    assert [token.content for token in tokens if token.type == "fence" and token.info == "yaml"] == [recipe.text]


@pytest.mark.parametrize(
    ("family", "base"), [("whisper", "embedded:whisper"), ("wav2vec2", "embedded:ctc"), ("Whisper", "embedded:whisper")]
)
def test_the_code_runs(data: ReportData, family: str, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", model_card(replace(data, family=family)), re.S)
    assert len(blocks) == 2
    noise = np.random.default_rng(0).normal(scale=0.05, size=16_000).astype(np.float32)
    soundfile.write(tmp_path / "speech.wav", noise, 16_000)
    for block in blocks:
        code = block.replace("path/to/this/model", resolve_model(base)).replace("speech.wav", str(tmp_path / "speech.wav"))
        exec(compile(code, "card", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_donors_card_is_kept(tmp_path: Path, card: str) -> None:
    (tmp_path / "README.md").write_bytes(b"# the donor's\r\n")
    write_model_card(tmp_path, card)
    write_model_card(tmp_path, card)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == card
    assert (tmp_path / "README.base.md").read_bytes() == b"# the donor's\r\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.base.md", "README.md"]
    fresh = tmp_path / "fresh"
    write_model_card(fresh, card)
    assert [path.name for path in fresh.iterdir()] == ["README.md"]


def test_the_same_data_give_the_same_card(data: ReportData, card: str) -> None:
    assert model_card(data, INPUTS, ORIGINS) == card
