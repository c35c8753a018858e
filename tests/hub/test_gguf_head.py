"""The head of a GGUF is walked without believing it: it is read whole, more of it is asked for, or it is refused."""

import struct
import tracemalloc

import pytest

from tests.gguf_files import head_of
from tunesmith.hub.gguf_head import Incomplete, Unusable, lean, read_head

SETTINGS = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.rope.freq_base": 0.5,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.ggml.tokens": ["a", "b", "ü"],
    "tokenizer.ggml.merges": ["a b"] * 100,
}
TABLE = [("token_embd.weight", (64, 3), 0), ("output_norm.weight", (64,), 0)]
HEAD = head_of(SETTINGS, TABLE)
SIZE = len(HEAD) + 4 * 64 * 4


def refusal(content: bytes, size: int = SIZE) -> str:
    with pytest.raises(Unusable) as caught:
        read_head(content, size)
    return str(caught.value)


def test_what_it_says_is_read() -> None:
    head = read_head(HEAD, SIZE)
    assert head.size == len(HEAD) and head.architecture == "llama"
    assert (head.number("llama.block_count"), head.number("llama.rope.freq_base")) == (1, 0.5)
    assert head.fields["tokenizer.ggml.add_bos_token"] is False
    assert head.arrays == {"tokenizer.ggml.tokens": 3, "tokenizer.ggml.merges": 100}
    assert [(tensor.name, tensor.shape, tensor.numbers) for tensor in head.tensors] == [
        ("token_embd.weight", (64, 3), 192),
        ("output_norm.weight", (64,), 64),
    ]


def test_wherever_it_is_cut_more_is_asked_for_and_never_more_than_there_is() -> None:
    end = len(HEAD.rstrip(b"\0"))
    for length in range(end - 8):
        with pytest.raises(Incomplete) as caught:
            read_head(HEAD[:length], SIZE)
        assert length < caught.value.at_least <= len(HEAD)


def test_without_the_vocabulary_it_is_the_same_model() -> None:
    short = lean(HEAD, read_head(HEAD, SIZE))
    head, before = read_head(short, SIZE), read_head(HEAD, SIZE)
    assert len(short) < len(HEAD) - 900 and head.size == len(short)
    assert head.tensors == before.tensors and head.fields == before.fields
    assert head.arrays == {"tokenizer.ggml.tokens": 3}


def changed(**settings: object) -> bytes:
    return head_of({**SETTINGS, **{key.replace("__", "."): value for key, value in settings.items()}}, TABLE)  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"PK\3\4" + HEAD[4:], "its first bytes are not GGUF"),
        (HEAD[:4] + struct.pack("<I", 1) + HEAD[8:], "it is of version 1, where 2 and 3 are known"),
        (HEAD[:4] + struct.pack(">I", 3) + HEAD[8:], "it is of version 50331648, where"),
        (head_of(SETTINGS, TABLE, (2**63, 6)), "it speaks of 9,223,372,036,854,775,808 tensors"),
        (head_of(SETTINGS, TABLE, (2, 2**40)), "it speaks of 1,099,511,627,776 settings"),
        (HEAD[:24] + struct.pack("<Q", 2**50) + HEAD[32:], "goes on behind the file's"),
        (head_of(SETTINGS, [("w" * 9, (2**40, 2**40), 0)]), "its weights are larger than the file"),
        (head_of(SETTINGS, [TABLE[0], TABLE[0]]), "it names a tensor twice"),
        (head_of(SETTINGS, [("w", (1,) * 5, 0)]), "it speaks of 5 dimensions of 'w'"),
        (head_of(SETTINGS, []), "it holds no weights"),
        (changed(llama__block_count=10**9), "it speaks of 1000000000 layers, and names 2 tensors"),
        (changed(llama__block_count=0), "it speaks of 0 layers"),
        (changed(general__alignment=3), "its alignment is 3, no power of two"),
        (HEAD.replace(b"llama.rope", b"llama.\xff\xff\xff\xff"), "is no UTF-8"),
    ],
)
def test_a_head_that_lies_or_is_damaged_says_what_is_wrong(content: bytes, sentence: str) -> None:
    assert sentence in refusal(content)


def test_a_setting_said_twice_is_refused() -> None:
    content = head_of({**SETTINGS, "general.one": 1, "general.two": 2}, TABLE)
    assert "it says 'general.one' twice" in refusal(content.replace(b"general.two", b"general.one"))


def test_an_array_that_claims_to_be_huge_takes_no_memory() -> None:
    tokens = HEAD.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 8
    huge = 10 << 40
    for length in (2**21 + 1, 2**40, 2**63):
        content = HEAD[:tokens] + struct.pack("<Q", length) + HEAD[tokens + 8 :]
        tracemalloc.start()
        assert "elements of an array" in refusal(content, huge)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()


def test_no_head_is_read_beyond_its_limit() -> None:
    content = HEAD[:24] + struct.pack("<Q", 65 << 20) + HEAD[32:]
    assert "longer than 64 MiB" in refusal(content, 1 << 40)


def test_a_file_that_ends_within_its_head_is_told_apart_from_one_half_fetched() -> None:
    assert "goes on behind the file's 100 bytes" in refusal(HEAD[:100], 100)
