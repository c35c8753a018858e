"""The text of a GGUF's model is cut up as the model learnt it: each way of splitting by its own rules, and sentencepiece."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.gguf_files import rewritten, tiny_ggufs
from tests.rooms import in_environment

pytestmark = pytest.mark.env("train")

ROWS = 512
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
READ = """
import json, sys
from pathlib import Path
from tunesmith.stages.gguf import head_of
from tunesmith.stages.gguf_tokens import check_tokens, load_tokenizer
found = {}
for name, text in json.loads(sys.argv[2]):
    file = Path(sys.argv[1]) / f"{name}.gguf"
    head = head_of(file)
    check_tokens(head, name)
    tokenizer = load_tokenizer(file, head)
    split = tokenizer.backend_tokenizer.pre_tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = [text[slice(*place)] for _, place in split.pre_tokenize_str(text)]
    found.setdefault(name, []).append([pieces, ids, tokenizer.decode(ids)])
print(json.dumps(found))
"""
SENTENCEPIECE = """
import io, json, sys
import sentencepiece
asked, found = json.loads(sys.argv[1]), []
for prefix in (True, False):
    kept = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(asked["learnt"]), model_writer=kept, vocab_size=500, model_type="bpe",
        byte_fallback=True, add_dummy_prefix=prefix, remove_extra_whitespaces=False, split_digits=True,
        normalization_rule_name="identity", allow_whitespace_only_pieces=True, minloglevel=2,
    )
    spm = sentencepiece.SentencePieceProcessor(model_proto=kept.getvalue())
    kind = lambda i: 2 if spm.is_unknown(i) else 3 if spm.is_control(i) else 6 if spm.is_byte(i) else 1
    rows = range(spm.vocab_size())
    found.append({
        "pieces": [spm.id_to_piece(i) for i in rows], "scores": [spm.get_score(i) for i in rows],
        "kinds": [kind(i) for i in rows], "ids": [spm.encode(text) for text in asked["texts"]],
    })
print(json.dumps(found))
"""
TEXT = "I'LL 12345 it's\n\n  go"
SPLITS = {
    "llama-bpe": ["I", "'LL", " ", "123", "45", " it", "'s", "\n\n", " ", " go"],
    "qwen2": ["I", "'LL", " ", "1", "2", "3", "4", "5", " it", "'s", "\n\n", " ", " go"],
    "tekken": ["I", "'LL", " ", "1", "2", "3", "4", "5", " it", "'s", "\n\n", " ", " go"],
    "gpt-4o": ["I'LL", " ", "123", "45", " it's", "\n\n", " ", " go"],
    "gpt-2": ["I", "'", "LL", " 12345", " it", "'s", "\n\n ", " go"],
    "smollm": ["I", "'", "LL", " ", "1", "2", "3", "4", "5", " it", "'s", "\n\n ", " go"],
}
"""As llama.cpp's src/llama-vocab.cpp splits by these names."""
SPOKEN = [
    "Hello world", "two  spaces   three", "line\n\nbreak\ttab", "unseen 中文 🎉 é", "the bill and the plan", "12345",
    "trailing  ",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_ggufs(tmp_path_factory.mktemp("gguf"), "llama:F32", "qwen2:F32", "gemma2:F32")


def vocabulary(folder: Path) -> list[str]:
    model = json.loads((folder / "llama-F32/tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return [*tokens, *(f"[PAD{number}]" for number in range(len(tokens), ROWS))]


def read(folder: Path, *asked: tuple[str, str]) -> Any:
    """By name: pieces, ids and what they spell, of each text."""
    return in_environment("train", READ, str(folder), json.dumps(asked))


def test_each_way_of_splitting_is_the_one_its_name_stands_for(folder: Path, tmp_path: Path) -> None:
    for name in SPLITS:
        rewritten(folder / "llama-F32.gguf", tmp_path / f"{name}.gguf", {"tokenizer.ggml.pre": name})
    found = read(tmp_path, *((name, TEXT) for name in SPLITS))
    assert {name: pieces for name, [[pieces, _, _]] in found.items()} == SPLITS
    assert all(spelt == TEXT for [[_, _, spelt]] in found.values())


def test_a_token_that_no_merges_lead_to_is_found_where_the_family_looks_for_it(folder: Path, tmp_path: Path) -> None:
    tokens = [*vocabulary(folder)[:-1], "zqzq"]
    for name in ("llama-bpe", "tekken", "gpt-2", "qwen2"):
        settings = {"tokenizer.ggml.pre": name, "tokenizer.ggml.tokens": tokens}
        rewritten(folder / "llama-F32.gguf", tmp_path / f"{name}.gguf", settings)
    found = read(tmp_path, *((name, "zqzq") for name in ("llama-bpe", "tekken", "gpt-2", "qwen2")))
    assert [found[name][0][1] for name in ("llama-bpe", "tekken")] == [[ROWS - 1]] * 2
    assert all(len(found[name][0][1]) == 4 for name in ("gpt-2", "qwen2"))


def test_qwen_composes_its_text_and_marks_of_a_chat_stay_whole(folder: Path) -> None:
    asked = ("qwen2-F32", "cafe\u0301"), ("qwen2-F32", "caf\u00e9"), ("qwen2-F32", "<|im_start|>user\nhi<|im_end|>")
    apart, composed, chat = read(folder, *asked)["qwen2-F32"]
    assert apart[1] == composed[1]
    assert (chat[1][0], chat[1][-1]) == (1, 2) and chat[2] == "<|im_start|>user\nhi<|im_end|>"


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_marks_in_no_byte_level_spelling_stay_whole_and_keep_their_numbers(
    folder: Path, tmp_path: Path, family: str
) -> None:
    marks = ["<｜User｜>", "<｜end▁of▁sentence｜>"]
    tokens = [*vocabulary(folder)[:-2], *marks]
    kinds = [3 if token in (*SPECIAL, *marks) else 1 for token in tokens]
    settings = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds, "tokenizer.ggml.eos_token_id": 511}
    rewritten(folder / f"{family}-F32.gguf", tmp_path / "marks.gguf", settings)
    [[_, ids, spelt]] = read(tmp_path, ("marks", f"{marks[0]}hi{marks[1]}"))["marks"]
    assert (ids[0], ids[-1]) == (510, 511) and spelt == f"{marks[0]}hi{marks[1]}"
    script = """
import json, sys
from pathlib import Path
from transformers import AutoTokenizer
from tunesmith.stages.gguf import import_gguf
tokenizer = AutoTokenizer.from_pretrained(import_gguf(*map(Path, sys.argv[1:3])))
print(json.dumps([len(tokenizer), tokenizer.eos_token_id, tokenizer(sys.argv[3], add_special_tokens=False)["input_ids"]]))
"""
    made = in_environment("train", script, str(tmp_path / "marks.gguf"), str(tmp_path / "out"), spelt)
    assert made == [ROWS, 511, ids]


def test_a_file_that_does_not_mark_its_marks_is_refused(folder: Path, tmp_path: Path) -> None:
    rewritten(folder / "llama-F32.gguf", tmp_path / "old.gguf", {"tokenizer.ggml.token_type": None})
    with pytest.raises(AssertionError, match=r"old\.gguf does not say which tokens are marks of a chat"):
        read(tmp_path, ("old", "x"))


@pytest.mark.parametrize(("family", "prefix"), [("llama", True), ("llama", False), ("gemma2", False)])
def test_a_sentencepiece_vocabulary_gives_the_tokens_that_sentencepiece_gives(
    folder: Path, tmp_path: Path, family: str, prefix: bool
) -> None:
    texts = SPOKEN if prefix else [*SPOKEN, " leading space"]
    learnt = Path("README.md").read_text().splitlines()
    by_prefix = in_environment("train", SENTENCEPIECE, json.dumps({"learnt": learnt, "texts": texts}))
    model, spare = by_prefix[0 if prefix else 1], ROWS - 500
    settings: dict[str, Any] = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.merges": None,
        "tokenizer.ggml.tokens": model["pieces"] + [f"[PAD{number}]" for number in range(spare)],
        "tokenizer.ggml.scores": model["scores"] + [-1000.0] * spare,
        "tokenizer.ggml.token_type": model["kinds"] + [5] * spare,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": None, "tokenizer.ggml.add_space_prefix": prefix,
    }  # fmt: skip
    rewritten(folder / f"{family}-F32.gguf", tmp_path / "spm.gguf", settings)
    found = read(tmp_path, *(("spm", text) for text in texts))["spm"]
    assert [ids for _, ids, _ in found] == model["ids"]
    assert [spelt for _, _, spelt in found] == texts


def test_what_would_be_loaded_as_another_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    script = """
import json, shutil, sys
from pathlib import Path
from tunesmith.errors import ModelError
from tunesmith.stages.gguf import head_of
from tunesmith.stages.gguf_tokens import check_reloaded, load_tokenizer
source, out, said = Path(sys.argv[1]), Path(sys.argv[2]), []
for family in ("llama", "qwen2"):
    file = source / "llama-F32.gguf"
    tokenizer = load_tokenizer(file, head_of(file))
    tokenizer.save_pretrained(out / family)
    shutil.copy(source / f"{family}-F32/config.json", out / family)
    try:
        check_reloaded(tokenizer, out / family, family)
        said.append("fine")
    except ModelError as error:
        said.append(error.message)
print(json.dumps(said))
"""
    assert in_environment("train", script, str(folder), str(tmp_path)) == [
        "fine",
        "qwen2 has a tokenizer that transformers would load as another one: name another file.",
    ]
