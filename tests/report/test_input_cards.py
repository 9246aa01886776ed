"""What inputs say of their licences: read where it stands, never made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from asrmerge.report.input_cards import InputCard, License, documents_beside, input_cards, input_licences, read_input_card

UNKNOWN = "unknown"


def folder(path: Path, **files: str) -> str:
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("readme", "license", "remark"),
    [
        ("---\nlicense: mit\n---\n# m\n", License("mit"), "README.md"),
        ("\ufeff---\nlicense: [mit]\n---\n", License("mit"), "README.md"),
        ("---\nlicense: other\nlicense_name: n\nlicense_link: LICENSE\n---\n", License("other", "n", "LICENSE"), "README.md"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", None, UNKNOWN),
        ("---\nlicense: unknown\n---\n", None, UNKNOWN),
        ("---\nlicense: 3\n---\n", None, UNKNOWN),
        ("---\nlanguage: en\n---\nlicense: mit\n", None, UNKNOWN),
        ("# no front matter\nlicense: mit\n", None, UNKNOWN),
        ("---\n- mit\n---\n", None, "unknown (the front matter of README.md cannot be read)"),
        ("---\nlicense: [mit\n---\n", None, "unknown (the front matter of README.md cannot be read)"),
    ],
)
def test_a_licence_is_what_the_front_matter_says(tmp_path: Path, readme: str, license: License | None, remark: str) -> None:
    card = read_input_card(folder(tmp_path / "m", README_md=readme))
    assert (card.license, card.remark, card.hub_id, card.derived) == (license, remark, None, False)


def test_a_licence_file_is_named_and_not_judged(tmp_path: Path) -> None:
    source = folder(tmp_path / "m", LICENSE="MIT License", README_md="# m\n")
    assert input_licences({"m": source}) == {"m": "unknown (see LICENSE)"}
    both = folder(tmp_path / "n", LICENSE="MIT License", README_md="---\nlicense: apache-2.0\n---\n")
    assert input_licences({"n": both}) == {"n": "apache-2.0"}


def test_what_was_fine_tuned_here_has_no_licence_of_its_own(tmp_path: Path) -> None:
    own = read_input_card(folder(tmp_path / "own", training_json="{}"))
    assert own.derived and own.license is None
    other = read_input_card(folder(tmp_path / "other", training_json="{}", README_md="---\nlicense: mit\n---\n"))
    assert not other.derived and other.license == License("mit")
    licensed = read_input_card(folder(tmp_path / "licensed", training_json="{}", LICENCE_txt="…"))
    assert (licensed.derived, licensed.remark) == (False, "unknown (see LICENCE.txt)")


def test_languages_and_data_sets_are_read(tmp_path: Path) -> None:
    readme = "---\nlanguage:\n- en\n- cs\ndatasets: org/speech\n---\n"
    card = read_input_card(folder(tmp_path / "m", README_md=readme))
    assert (card.languages, card.datasets) == (("en", "cs"), ("org/speech",))


def test_a_hub_model_is_read_from_the_cache_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--org--model"
    folder(repository / "snapshots" / "abc", README_md="---\nlicense: mit\n---\n")
    folder(repository / "refs", main="abc")
    cards = input_cards({"cached": "org/model", "other": "org/never-fetched", "gone": str(tmp_path / "gone")})
    assert cards["cached"] == InputCard("org/model", License("mit"), "README.md")
    assert cards["other"] == InputCard("org/never-fetched", None, "unknown (see its page on the hub)")
    assert cards["gone"] == InputCard(None, None, "unknown (the folder is not there)")


def test_embedded_bases_have_a_licence() -> None:
    card = read_input_card("embedded:whisper")
    assert (card.license, card.languages, card.hub_id) == (License("apache-2.0"), ("en",), None)


def test_documents_beside_a_manifest_are_named(tmp_path: Path) -> None:
    place = Path(folder(tmp_path / "corpus", README_TXT="", LICENSE="", licence_md="", test_jsonl=""))
    (place / "readme-folder").mkdir()
    assert documents_beside(place / "test.jsonl") == ("LICENSE", "README.TXT", "licence.md")
    assert documents_beside(tmp_path / "nowhere" / "test.jsonl") == ()
