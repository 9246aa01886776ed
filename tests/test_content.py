"""Where shipped things lie: bases, domains, configurations, from anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asrmerge import content
from asrmerge.content import content_folder, locate_domain, resolve_model, shipped_domains
from asrmerge.errors import ConfigError


def test_shipped_folders_are_found_whatever_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (content_folder("configs") / "quickstart.yaml").is_file()
    assert {"conversation", "general", "legal", "medical", "technical"} <= set(shipped_domains())
    assert locate_domain("legal") == content_folder("domains") / "legal"


def test_content_inside_an_installed_package_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "content" / "domains").mkdir(parents=True)
    monkeypatch.setattr(content, "_PACKAGE", tmp_path)
    assert content_folder("domains") == tmp_path / "content" / "domains"
    assert content_folder("configs") == tmp_path.parent / "configs"


def test_a_folder_goes_before_a_shipped_domain_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "legal").mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate_domain("legal") == content_folder("domains") / "legal", "a folder without a domain.yaml is none"
    (tmp_path / "legal" / "domain.yaml").write_text("name: legal")
    assert locate_domain("legal").resolve() == tmp_path / "legal"


def test_an_unknown_domain_is_refused_with_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match=r"domain 'cooking': neither a folder .* \(conversation, general, legal"):
        locate_domain("cooking")


@pytest.mark.parametrize("family", ["ctc", "whisper"])
def test_embedded_bases_are_whole_checkpoints(family: str) -> None:
    folder = Path(resolve_model(f"embedded:{family}"))
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    assert model_type == {"ctc": "wav2vec2", "whisper": "whisper"}[family]
    assert 0 < (folder / "model.safetensors").stat().st_size <= 8_000_000


def test_an_unknown_embedded_base_is_refused_with_the_others() -> None:
    with pytest.raises(ConfigError, match=r"'embedded:conformer': no such .* there are embedded:ctc, embedded:whisper"):
        resolve_model("embedded:conformer")


def test_other_sources_stay_as_they_are_but_for_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert resolve_model("openai/whisper-tiny") == "openai/whisper-tiny"
    assert resolve_model("~/models/a") == "/home/someone/models/a"
    assert resolve_model("./a") == "./a"
