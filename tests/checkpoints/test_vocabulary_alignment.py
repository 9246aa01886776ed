"""CTC heads with vocabularies of their own: rows follow their tokens, and the merged folder's processor numbers them alike."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import edit_config, fine_tuned, save, tiny_ctc, tiny_whisper
from transformers import AutoModelForCTC, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

from asrmerge import cli
from asrmerge.checkpoints import Checkpoint, aligned, check_compatible, vocabulary_files, write_checkpoint
from asrmerge.errors import CheckpointError, IncompatibleError
from asrmerge.merging import Recipe, merge_tensors

BASE = ["<pad>", "<unk>", "|", *"abcdef"]
PLAIN = {"pad_token": "<pad>", "unk_token": "<unk>", "word_delimiter_token": "|"}
BRACKETS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "word_delimiter_token": " "}


def save_ctc(folder, tokens, seed, specials=PLAIN, processor=True, bias=True):
    """A fine-tune of the tiny model whose head is made for ``tokens``, as a training script would leave it."""
    model = fine_tuned("ctc", seed)
    generator = torch.Generator().manual_seed(seed)
    model.lm_head = torch.nn.Linear(8, len(tokens), bias=bias)
    torch.nn.init.normal_(model.lm_head.weight, generator=generator)
    if bias:
        torch.nn.init.normal_(model.lm_head.bias, generator=generator)
    model.config.vocab_size = len(tokens)
    model.config.pad_token_id = tokens.index(specials["pad_token"])
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    if processor:
        tokenizer = Wav2Vec2CTCTokenizer(folder / "vocab.json", bos_token=None, eos_token=None, **specials)
        Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(folder)
        Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return Checkpoint.open(folder)


@pytest.fixture
def base(tmp_path):
    return save_ctc(tmp_path / "base", BASE, 1)


def rows(checkpoint):
    """Token → row of the head, weights and bias."""
    weight, bias = checkpoint.read("lm_head.weight"), checkpoint.read("lm_head.bias")
    assert weight.shape == checkpoint.shape("lm_head.weight") and bias.shape == checkpoint.shape("lm_head.bias")
    return {token: [*weight[row].tolist(), bias[row].item()] for row, token in checkpoint.vocabulary().items()}


def align(*checkpoints, **options):
    views = aligned(checkpoints, [checkpoint.folder.name for checkpoint in checkpoints], **options)
    check_compatible(views)
    return views


def merged(tmp_path, base, experts, weights, donor=0):
    """The folder of a merge by task arithmetic."""
    models = [base, *experts]
    views = align(*models, donor=donor)
    listed = [
        {"name": one.folder.name, "model": str(one.folder), "weight": weight}
        for one, weight in zip(experts, weights, strict=True)
    ]
    recipe = Recipe(method="task_arithmetic", base=str(base.folder), experts=listed)
    tensors = merge_tensors(recipe, views[0], views[1:])
    write_checkpoint(tmp_path / "out", tensors, donor=views[donor], extra_files=vocabulary_files(views[donor]))
    return tmp_path / "out"


def transcribe(folder, noise):
    model, processor = AutoModelForCTC.from_pretrained(folder).eval(), Wav2Vec2Processor.from_pretrained(folder)
    assert len(processor.tokenizer) == model.config.vocab_size == model.lm_head.out_features
    assert processor.tokenizer.pad_token_id == model.config.pad_token_id
    with torch.no_grad():
        logits = model(processor(noise.numpy(), sampling_rate=16000, return_tensors="pt").input_values).logits[0]
    assert len(set(logits.argmax(-1).tolist())) > 2
    return processor.tokenizer.decode(logits.argmax(-1)), logits, processor.tokenizer.get_vocab()


def test_equal_vocabularies_give_the_same_objects(tmp_path, base):
    other = save_ctc(tmp_path / "other", BASE, 2)
    assert [id(one) for one in align(base, other)] == [id(base), id(other)]
    whispers = [Checkpoint.open(save(tiny_whisper(seed), tmp_path / f"whisper{seed}")) for seed in range(2)]
    edit_config(whispers[1].folder, vocab_size=41)
    whispers[1] = Checkpoint.open(whispers[1].folder)
    assert aligned(whispers, ["a", "b"]) == whispers
    with pytest.raises(IncompatibleError, match="Whisper's vocabulary has 40 tokens"):
        check_compatible(whispers)


def test_other_order(tmp_path, base):
    other = save_ctc(tmp_path / "other", BASE[::-1], 2)
    one, two = align(base, other)
    assert two.vocabulary() == base.vocabulary() and rows(two) == rows(other) and rows(one) == rows(base)
    assert two.config["pad_token_id"] == 0 and two.config["vocab_size"] == len(BASE)
    assert two.hash() == other.hash() and two.names == other.names
    name = "wav2vec2.feature_projection.projection.weight"
    assert torch.equal(two.read(name), other.read(name))
    assert torch.equal(two.read_elements(name, 3, 9), other.read_elements(name, 3, 9))
    assert torch.equal(two.read_elements("lm_head.weight", 5, 21), two.read("lm_head.weight").flatten()[5:21])
    assert vocabulary_files(one) == {} == vocabulary_files(other)  # the base's own files are right


def test_a_missing_token_borrows_the_bases_row(tmp_path, base):
    other = save_ctc(tmp_path / "other", [token for token in BASE if token != "c"], 2)
    one, two = align(base, other)
    assert rows(one) == rows(base)
    assert rows(two) == rows(other) | {"c": rows(base)["c"]}


def test_union(tmp_path, base):
    """Tokens that only experts have come after the base's; who lacks them borrows from the first expert by name."""
    technical = save_ctc(tmp_path / "technical", [*BASE, "z", "q"], 2)
    legal = save_ctc(tmp_path / "legal", ["q", "h", *(token for token in BASE if token != "a")], 3)
    first, one, two = align(base, technical, legal)
    assert list(first.vocabulary().values()) == [*BASE, "h", "q", "z"]
    lent = {"q": rows(legal)["q"], "h": rows(legal)["h"], "z": rows(technical)["z"]}
    assert rows(first) == rows(base) | lent
    assert rows(one) == lent | rows(technical)
    assert rows(two) == lent | {"a": rows(base)["a"]} | rows(legal)
    reordered = align(base, legal, technical)
    assert rows(reordered[0]) == rows(first) and rows(reordered[1]) == rows(two)


def test_without_a_base_the_first_by_name_lends(tmp_path):
    third = save_ctc(tmp_path / "a", BASE[:-1], 4)
    second, first = (save_ctc(tmp_path / name, BASE, seed) for name, seed in (("c", 2), ("b", 3)))
    assert rows(align(second, first, third, has_base=False)[2])["f"] == rows(first)["f"]
    assert rows(align(first, second, third, has_base=False)[2])["f"] == rows(first)["f"]
    assert rows(align(second, first, third)[2])["f"] == rows(second)["f"]


def test_roles_go_before_spelling(tmp_path, base):
    other = save_ctc(tmp_path / "other", [*"bacdef", " ", "[UNK]", "[PAD]"], 2, BRACKETS)
    _, two = align(base, other)
    found, own = rows(two), rows(other)
    assert found == {token: own[token] for token in "abcdef"} | {
        "<pad>": own["[PAD]"],
        "<unk>": own["[UNK]"],
        "|": own[" "],
    }
    assert list(aligned([base, other], ["base", "other"], donor=1)[0].vocabulary().values()) == [*"bacdef", " ", "[UNK]", "[PAD]"]


def test_the_blank_is_known_from_config_json_too(tmp_path, base):
    other = save_ctc(tmp_path / "other", [*BASE[1:], "_"], 2, PLAIN | {"pad_token": "_"}, processor=False)
    assert rows(align(base, other)[1])["<pad>"] == rows(other)["_"]


def test_special_tokens_map(tmp_path, base):
    other = save_ctc(tmp_path / "other", [*"abcdef", " ", "[UNK]", "[PAD]"], 2, BRACKETS)
    (other.folder / "tokenizer_config.json").unlink()
    content = {"unk_token": {"content": "[UNK]", "lstrip": False}, "pad_token": "[PAD]", "word_delimiter_token": " "}
    (other.folder / "special_tokens_map.json").write_text(json.dumps(content))
    assert rows(align(base, other)[1])["<unk>"] == rows(other)["[UNK]"]


def test_heads_without_bias_and_parakeets(tmp_path):
    one = save_ctc(tmp_path / "one", BASE, 1, bias=False)
    two = save_ctc(tmp_path / "two", BASE[::-1], 2, bias=False)
    for checkpoint in (one, two):
        path = checkpoint.folder / "model.safetensors"
        state = load_file(path)
        state["ctc_head.weight"] = state.pop("lm_head.weight")[:, :, None].contiguous()
        save_file(state, path)
    one, two = (Checkpoint.open(checkpoint.folder) for checkpoint in (one, two))
    views = align(one, two)
    assert torch.equal(views[1].read("ctc_head.weight"), two.read("ctc_head.weight").flip(0))
    assert views[1].shape("ctc_head.weight") == (len(BASE), 8, 1)


def test_a_blank_that_no_file_names(tmp_path):
    """Parakeet's comes after the tokens of tokenizer.json."""
    one, two = (
        save_ctc(tmp_path / name, [*order, "<pad>"], 1, processor=False) for name, order in (("1", "abcd"), ("2", "dcba"))
    )
    for checkpoint in (one, two):
        content = json.loads((checkpoint.folder / "vocab.json").read_text())
        del content["<pad>"]
        (checkpoint.folder / "vocab.json").write_text(json.dumps(content))
    assert torch.equal(align(one, two)[1].read("lm_head.bias")[[3, 2, 1, 0, 4]], two.read("lm_head.bias"))


def test_borrowed_rows_keep_their_precision(tmp_path, base):
    other = save_ctc(tmp_path / "other", BASE[:-1], 2)
    path = other.folder / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)
    view = align(base, Checkpoint.open(other.folder))[1]
    assert torch.equal(view.read("lm_head.weight")[-1], base.read("lm_head.weight")[-1])


@pytest.mark.parametrize("specials", [PLAIN, BRACKETS])
def test_one_hot_weight_transcribes_as_the_expert(tmp_path, base, specials):
    tokens = [*"fbacedqé", "<noise>", specials["word_delimiter_token"], specials["unk_token"], specials["pad_token"]]
    expert = save_ctc(tmp_path / "expert", tokens, 5, specials)
    subset = save_ctc(tmp_path / "subset", BASE[:-2], 6)
    noise = torch.randn(16000, generator=torch.Generator().manual_seed(0))
    text, logits, numbers = transcribe(expert.folder, noise)
    for donor in (0, 1):  # the base's files and the expert's
        folder = merged(tmp_path, base, [expert, subset], [1.0, 0.0], donor)
        ours, found, ids = transcribe(folder, noise)
        assert ours == text and text.strip()
        back = {"[PAD]": "<pad>", "[UNK]": "<unk>", " ": "|"} if donor == 0 else {}
        for token, row in numbers.items():
            torch.testing.assert_close(found[:, ids[back.get(token, token)]], logits[:, row], rtol=1e-4, atol=1e-5)
    assert not (tmp_path / "out" / "added_tokens.json").exists()


def test_zero_weight_transcribes_as_the_base(tmp_path, base):
    expert = save_ctc(tmp_path / "expert", [*BASE[::-1]], 5)
    noise = torch.randn(16000, generator=torch.Generator().manual_seed(1))
    folder = merged(tmp_path, base, [expert], [0.0])
    assert transcribe(folder, noise)[0] == transcribe(base.folder, noise)[0]


def test_tokens_beyond_the_head_move_behind_the_new_rows(tmp_path, base):
    """A tokenizer saved with <s> and </s> that the head has no rows for, as the XLSR tutorial leaves it."""
    folder = base.folder
    (folder / "added_tokens.json").write_text(json.dumps({"<s>": 9, "</s>": 10}))
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"bos_token": "<s>", "eos_token": "</s>"}
    for number, token in ((9, "<s>"), (10, "</s>")):
        entry = {"content": token, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
        settings["added_tokens_decoder"][str(number)] = entry
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "alphabet.json").write_text(json.dumps({"labels": [*BASE, "<s>", "</s>"], "is_bpe": False}))
    expert = save_ctc(tmp_path / "expert", [*BASE, "q", "</s>"], 5)
    out = merged(tmp_path, Checkpoint.open(folder), [expert], [1.0])
    tokenizer = Wav2Vec2Processor.from_pretrained(out).tokenizer
    expected = {token: number for number, token in enumerate([*BASE, "</s>", "q", "<s>"])}
    assert tokenizer.get_vocab() == expected and (tokenizer.bos_token_id, tokenizer.eos_token_id) == (11, 9)
    assert tokenizer.convert_ids_to_tokens(list(range(12))) == list(expected)
    assert json.loads((out / "added_tokens.json").read_text()) == {"<s>": 11}
    assert json.loads((out / "alphabet.json").read_text())["labels"] == list(expected)


def test_a_role_that_only_an_expert_has(tmp_path):
    base = save_ctc(tmp_path / "base", ["<pad>", "|", *"abc"], 1, processor=False)
    expert = save_ctc(tmp_path / "expert", [*"abc", " ", "[UNK]", "[PAD]"], 2, BRACKETS)
    first, _ = align(base, expert)
    assert list(first.vocabulary().values()) == ["<pad>", "|", *"abc", "[UNK]"]
    assert json.loads(vocabulary_files(first)["tokenizer_config.json"]) == {"unk_token": "[UNK]"}


def refused(message, *checkpoints, error=IncompatibleError):
    with pytest.raises(error, match=message) as caught:
        aligned(checkpoints, ["base", "medical"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_letters_in_another_case(tmp_path, base):
    other = save_ctc(tmp_path / "other", [*BASE[:3], *"ABCDEFG"], 2)
    message = refused(
        r"base \(.*\) has 'a', 'b', 'c', 'd', 'e' and 1 more where that of medical \(.*\) has 'A', 'B', 'C', 'D', 'E' and 1 "
        "more, the same letters in another case: retrain .* or re-case the tokens in its vocab.json",
        base,
        other,
    )
    assert str(other.folder) in message


def test_pieces_of_words(tmp_path, base):
    pieces = save_ctc(tmp_path / "pieces", [*BASE[:3], "▁the", "ing", "a", "b", "c"], 2)
    refused(r"medical \(.*\) has pieces of words such as '▁the', 'ing', .* base \(.*\) characters such as 'a'", base, pieces)
    refused(r"base \(.*\) has pieces of words such as '▁the', 'ing'", pieces, base)
    others = save_ctc(tmp_path / "others", [*BASE[:3], "▁of", "ing", "a", "b", "c"], 3)
    refused(r"cut words .* \(base .* alone has '▁the'; medical .* alone has '▁of'\): retrain", pieces, others)
    unmarked = save_ctc(tmp_path / "unmarked", [*BASE[:3], "the", "ing", "tion", "a"], 3)
    refused("pieces of words such as 'tion', 'ing', 'the', 'a'", base, unmarked)
    same = save_ctc(tmp_path / "same", [*BASE[:3], "c", "▁the", "ing", "a", "b"], 4)
    assert rows(align(pieces, same)[1]) == rows(same)


def test_a_few_longer_tokens_are_no_pieces_of_words(tmp_path, base):
    other = save_ctc(tmp_path / "other", [*BASE, "ch", "<noise>", "e\u0301"], 2)
    assert len(align(base, other)[0].vocabulary()) == len(BASE) + 3


def test_one_spelling_for_two_tokens(tmp_path, base):
    other = save_ctc(tmp_path / "other", [*"abcdef|", "[PAD]", "[UNK]", " "], 2, BRACKETS)
    refused(r"'\|' is the word delimiter token in one vocabulary and an ordinary one in the other .*: rename", base, other)


def test_files_that_do_not_fit_the_head(tmp_path, base):
    other = save_ctc(tmp_path / "other", BASE[::-1], 2)
    content = json.loads((other.folder / "vocab.json").read_text())
    del content["c"]
    (other.folder / "vocab.json").write_text(json.dumps(content))
    refused(r"row 3 of lm_head.* in .*other has no token in the tokenizer's files", base, other, error=CheckpointError)
    edit_config(other.folder, vocab_size=5)
    refused("has 9 rows but config.json says vocab_size 5", base, Checkpoint.open(other.folder), error=CheckpointError)


def test_a_tokenizer_json_is_not_extended(tmp_path, base):
    other = save_ctc(tmp_path / "other", [*BASE, "q"], 2)
    content = json.loads((base.folder / "vocab.json").read_text())
    (base.folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordLevel", "vocab": content}}))
    refused(r"base \(.*\) lacks 'q' of the others' vocabularies, and its tokenizer.json can't be extended", base, other)


def test_other_models_are_left_to_the_check(tmp_path, base):
    whisper = Checkpoint.open(save(tiny_whisper(), tmp_path / "whisper"))
    assert aligned([base, whisper], ["a", "b"]) == [base, whisper]
    unnamed = save_ctc(tmp_path / "unnamed", BASE, 2, processor=False)
    (unnamed.folder / "vocab.json").unlink()
    assert aligned([base, unnamed], ["a", "b"]) == [base, unnamed]
    other = Checkpoint.open(save(tiny_ctc(), tmp_path / "tiny"))
    with pytest.raises(IncompatibleError, match="token 9 of the vocabulary is absent in"):
        check_compatible([base, other])


def test_command_line(tmp_path, base, monkeypatch, capfd):
    """Through the recipe, with files from the base and from the expert."""
    expert = save_ctc(tmp_path / "expert", [*"fbacedq", " ", "[UNK]", "[PAD]"], 5, BRACKETS)
    noise = torch.randn(16000, generator=torch.Generator().manual_seed(0))
    for donor in ("base", "expert"):
        listed = [{"name": "expert", "model": str(expert.folder), "weight": 1.0}]
        recipe = Recipe(method="task_arithmetic", base=str(base.folder), experts=listed, donor=donor)
        (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
        monkeypatch.setattr(sys, "argv", ["asrmerge", "merge", str(tmp_path / "recipe.yaml"), str(tmp_path / "out")])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0, capfd.readouterr().err
        unknown = "<unk>" if donor == "base" else "[UNK]"  # as the donor's tokenizer spells it
        assert transcribe(tmp_path / "out", noise)[0] == transcribe(expert.folder, noise)[0].replace("[UNK]", unknown)
