"""The model card of a merged model: what it is, how good it is, what it came from, and where it stops."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from asrmerge.content import EMBEDDED
from asrmerge.files import atomic_file, write_text
from asrmerge.report.card_metadata import DataOrigin, Lineage, card_metadata, lineage
from asrmerge.report.data import RecipeRecord, ReportData, ReportModel, title_of
from asrmerge.report.input_cards import InputCard, licence_text
from asrmerge.report.markdown import escape_markdown, markdown_grid, markdown_with_note
from asrmerge.report.numbers import listed, percent, points, rate
from asrmerge.report.significance import domain_comparison
from asrmerge.report.text_tables import Entry, TextTable, comparison_tables, how_measured, rate_table, set_table
from asrmerge.report.verdict import LEVEL, rivals, verdict

README, DONORS = "README.md", "README.base.md"
_OURS = "<!-- model card by asrmerge -->"


def write_model_card(folder: Path | str, text: str) -> None:
    """Write ``text`` as the folder's README.md, atomically, unless it stands there; another's is kept as README.base.md."""
    readme = Path(folder) / README
    if readme.is_file():
        found = readme.read_bytes()
        if found == text.encode():
            return
        if _OURS.encode() not in found:
            with atomic_file(readme.with_name(DONORS)) as stream:
                stream.write(found)
    write_text(readme, text)


def model_card(
    data: ReportData, inputs: Mapping[str, InputCard] | None = None, origins: Mapping[str, DataOrigin] | None = None
) -> str:
    """README.md of the report's main model, in the hub's form.

    Args:
        inputs: by name, what the models of the recipe say of themselves, see :func:`~asrmerge.report.input_cards.input_cards`.
        origins: by domain, where its audio came from.
    """
    made_of = lineage(data, inputs or {}, origins or {})
    body = (
        _environment()
        .get_template("model_card.md.j2")
        .render(
            data=data,
            marker=_OURS,
            verdict=verdict(data),
            better=_better_models(data),
            usage=_usage(data.family),
            figures=rate_table(data.scorecard, data.models),
            measured=how_measured(data.scorecard),
            comparisons=_comparisons(data),
            sets=set_table(data.scorecard),
            general=_general(data),
            inputs=None if data.recipe is None else _input_table(data.recipe),
            learnt=_data_table(data),
            licences=_licence_table(data, made_of),
            made_of=made_of,
            limits=_limits(data, made_of),
        )
    )
    card = f"---\n{card_metadata(data, made_of).to_yaml()}\n---\n\n{body}"
    # A lone surrogate in a name cannot be written as UTF-8: it is shown as "?".
    return card.encode("utf-8", "replace").decode("utf-8")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("asrmerge.report"),
        autoescape=False,  # Markdown: what is not our own goes through the filter md
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(
        md=escape_markdown, grid=markdown_grid, with_note=markdown_with_note, fenced=_fenced, title_of=title_of, listed=listed
    )
    return environment


def _fenced(text: str, language: str = "") -> str:
    """A code block that nothing in ``text`` can end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _usage(family: str | None) -> Literal["generating", "ctc"] | None:
    """Which of transformers' automatic classes opens a model of that family (a model type); None where it isn't known."""
    if family is None:
        return None
    from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING_NAMES, MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES

    model_type = family.lower()
    if model_type in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES:
        return "generating"
    return "ctc" if model_type == "ctc" or model_type in MODEL_FOR_CTC_MAPPING_NAMES else None


def _better_models(data: ReportData) -> list[str]:
    """Domain by domain, which other model has the lowest word error rate, if that is lower."""
    focus = data.focus
    found = []
    for domain in data.domains:
        best = min(data.models, key=lambda model: data.wer(model, domain))
        if data.wer(focus, domain) - data.wer(best, domain) > LEVEL:
            rates = f"{rate(data.wer(best, domain))} against {rate(data.wer(focus, domain))}"
            found.append(f"{title_of(domain)}: {best.title}, {rates}{_chance(data, best, domain)}")
    return found


def _chance(data: ReportData, other: ReportModel, domain: str) -> str:
    """Corrected for the number of domains, because all of them are looked at."""
    found = domain_comparison(data, other, domain)
    if found is None:
        return ""
    return ", beyond chance" if found.p_holm < 1 - data.scorecard.level else ", which could be chance"


def _comparisons(data: ReportData) -> tuple[TextTable, ...]:
    """Against what the model has to beat: uniform average, best single expert, base."""
    pairs = [(data.focus.name, rival.model.name) for rival in rivals(data)]
    return comparison_tables(data.scorecard, data.models, pairs)


def _general(data: ReportData) -> str | None:
    """What is left of the base's accuracy on general speech."""
    base = data.first("base")
    if base is None or data.general is None or base == data.focus:
        return None
    new, old = data.wer(data.focus, data.general), data.wer(base, data.general)
    text = f"WER {rate(new)} against {rate(old)} of the base"
    if found := domain_comparison(data, base, data.general):
        low, high = (points(bound) for bound in found.ci)
        text += f", {points(found.difference)} points ({low} to {high})"
    kept = data.scorecard.models[data.focus.name].domains[data.general].retention
    if kept is not None and kept.value is not None:
        interval = "" if kept.ci is None else f" ({percent(kept.ci[0])}–{percent(kept.ci[1])})"
        text += f"; {rate(kept.value)}{interval} of the base's accuracy is kept"
    return f"{text}."


def _input_table(recipe: RecipeRecord) -> TextTable:
    rows = tuple(
        (
            Entry(item.name),
            Entry(item.source),
            Entry("" if item.weight is None else f"{item.weight:.4g}"),
            Entry(item.digest or ""),
        )
        for item in recipe.inputs
    )
    return TextTable("Inputs", ("Model", "From", "Weight", "SHA-256 of its weights"), rows, texts=2)


def _licence_table(data: ReportData, made_of: Lineage) -> TextTable | None:
    if not made_of.inputs:
        return None
    sources = {item.name: item.source for item in data.recipe.inputs} if data.recipe is not None else {}
    rows = tuple(
        (
            Entry(name),
            Entry(card.hub_id or sources.get(name, "")),
            Entry(licence_text(card)),
            Entry(card.remark if card.license is not None else ""),
        )
        for name, card in made_of.inputs.items()
    )
    return TextTable("Licences", ("Model", "From", "Licence", "Read from"), rows, texts=4)


def _data_table(data: ReportData) -> TextTable | None:
    """Utterances and minutes by domain and split, where the run says."""
    sets = {(item.domain, item.split): item for item in data.run.data}
    if not sets:
        return None
    splits = list(dict.fromkeys(split for _, split in sets))

    def entry(domain: str, split: str) -> Entry:
        found = sets.get((domain, split))
        return Entry("–" if found is None else f"{found.utterances} utterances, {found.minutes:.1f} min")

    domains = dict.fromkeys(domain for domain, _ in sets)
    rows = tuple((Entry(title_of(domain)), *(entry(domain, split) for split in splits)) for domain in domains)
    return TextTable("Data", ("Domain", *(title_of(split) for split in splits)), rows)


def _limits(data: ReportData, made_of: Lineage) -> list[str]:
    """What a reader should not expect, each in a sentence or two."""
    card = data.scorecard
    scores = card.models[data.focus.name].domains
    smallest = min(scores, key=lambda domain: scores[domain].words)
    languages = f"Languages: {', '.join(made_of.languages)}." if made_of.languages else "No language is named by all inputs."
    found = []
    if (data.base or "").lower().startswith(EMBEDDED.rstrip(":")):
        found.append("Its base is a demonstration, trained on synthesised speech: this model is not for real speech.")
    found += [
        f"Measured on {listed([title_of(domain) for domain in data.domains])}; other speech was not tried. {languages}",
        f"Texts were compared in the form of the normaliser {card.normalizer}: under another one the figures differ, "
        "and capitals or punctuation that it removes were not judged.",
        f"The smallest test set, {title_of(smallest)}, has {scores[smallest].utterances} utterances and "
        f"{scores[smallest].words} words: small differences between models do not show on it.",
    ]
    if blind := _blind_spot(data):
        found.append(blind)
    if any(score.resampled_by == "utterance" for score in scores.values()):
        found.append(
            "Where intervals are drawn by utterance, speakers are unknown or too few: they are too narrow if a speaker "
            "has several utterances."
        )
    loops, silence = (sum(getattr(score, name) for score in scores.values()) for name in ("repeat_loops", "text_on_silence"))
    total, failed = (sum(getattr(score, name) for score in scores.values()) for name in ("utterances", "failed"))
    found.append(
        f"Of its {total} transcripts, with a phrase over and over: {loops}; with words although there is no sound: {silence}."
    )
    if failed:
        found.append(f"Left out of every figure, because some model gave no transcript: {failed} of {total + failed} utterances.")
    return found


def _blind_spot(data: ReportData) -> str | None:
    """How large a difference from the uniform average may be without having shown."""
    uniform = data.first("uniform")
    if uniform is None:
        return None
    compared = [item for domain in data.domains if (item := domain_comparison(data, uniform, domain))]
    found = {item.domain: item.detectable for item in compared if item.detectable is not None}
    if not found:
        return None
    widest = max(found, key=lambda domain: found[domain])
    return (
        f"A true difference of {percent(found[widest])} points from the uniform average on {title_of(widest)} would have been "
        "found four times in five; a smaller one less often."
    )
