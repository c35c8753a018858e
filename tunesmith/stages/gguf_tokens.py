"""The tokenizer of a GGUF: what transformers makes of it, and what has to be said on top for the tokens to be right.

A file names how text is split before it is merged (`tokenizer.ggml.pre`), and llama.cpp knows by that name more than
the split alone (src/llama-vocab.cpp). transformers knows some names, and splits like GPT-2 for any other, unasked: a
name that neither it nor this module knows is refused.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, TokenizersBackend
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    GGUF_PRE_TOKENIZER_SPLITS,
    GGUF_SENTENCEPIECE_BUILDERS,
    GGUF_TOKENIZER_TYPES,
    convert_gguf_tokenizer,
    get_gguf_tokenizer,
)

from tunesmith.errors import ModelError, NoChatTemplate
from tunesmith.hub.gguf_head import Head

_LIKE_GPT2 = ("gpt-2", "phi-2", "mpt", "olmo", "jais")
_SINGLE_DIGITS = ("smollm", "starcoder", "refact")
"""Each digit apart, the rest like GPT-2."""
_WHOLE_FIRST = (
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano", "tekken",
)  # fmt: skip
"""A piece that is a token is taken as it is, whatever its merges would come to."""
_MARKS = (3, 4)
"""Kinds of tokens: control, and defined by the user."""
_COMPOSED = (GGUF_PRE_TOKENIZER_SPLITS["qwen2"], GGUF_PRE_TOKENIZER_SPLITS["qwen35"])
"""Splits of families whose text is brought into Unicode's composed form first."""


def check_tokens(head: Head, where: str) -> None:
    """Raises NoChatTemplate, or ModelError for a vocabulary whose text would be cut up wrong."""
    kind, split = head.text("tokenizer.ggml.model"), head.text("tokenizer.ggml.pre")
    if not head.arrays.get("tokenizer.ggml.tokens") or kind not in GGUF_TOKENIZER_TYPES:
        raise ModelError(
            f"{where} has no vocabulary that can be read (of kind {kind or 'none'}): "
            "name a repo or a folder with safetensors and tokenizer."
        )
    if kind == "gpt2" and split not in (*_LIKE_GPT2, *_SINGLE_DIGITS, *GGUF_PRE_TOKENIZER_SPLITS):
        said = f"splits text as {split}, which is not known here" if split else "does not say how it splits text"
        raise ModelError(f"{where} {said}, so tokens would be wrong: name another file, or a repo with safetensors.")
    if head.architecture == "qwen2" and GGUF_PRE_TOKENIZER_SPLITS.get(split) != GGUF_PRE_TOKENIZER_SPLITS["qwen2"]:
        # Whatever its folder says, transformers loads a Qwen2 with the tokenizer of that name.
        raise ModelError(f"{where} is a qwen2 model with a tokenizer of another family ({split}): name another file.")
    if not head.text("tokenizer.chat_template"):
        raise NoChatTemplate(f"{where} carries no chat template: take the instruction-tuned version of the model.")


def load_tokenizer(file: Path, head: Head) -> PreTrainedTokenizerBase:
    """The file's tokenizer, of the class that keeps on loading what it is told here. Raises ModelError."""
    if not head.arrays.get("tokenizer.ggml.token_type"):
        raise ModelError(f"{file.name} does not say which tokens are marks of a chat: name a newer file of the model.")
    split = head.text("tokenizer.ggml.pre")
    architecture, said, settings = get_gguf_tokenizer(str(file))
    backend, _ = convert_gguf_tokenizer(architecture, said)
    if said["tokenizer_type"] == "llama":
        _follow_prefix(backend, head)
    elif split in _SINGLE_DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    elif split in _WHOLE_FIRST:
        backend.model.ignore_merges = True
        settings.setdefault("add_bos_token", True)
    elif GGUF_PRE_TOKENIZER_SPLITS.get(split) in _COMPOSED:
        backend.normalizer = normalizers.NFC()
    marks = _lost_marks(said)
    return TokenizersBackend(tokenizer_object=_with_marks(backend, marks) if marks else backend, **settings)


def _lost_marks(said: dict[str, Any]) -> dict[str, str]:
    """Marks of a chat that transformers takes for text, since they are not in byte-level spelling: how it spells them.

    Such as DeepSeek's `<｜User｜>`.
    """
    if said["tokenizer_type"] != "gpt2":
        return {}
    spelling = bytes_to_unicode()
    alphabet = set(spelling.values())
    found = zip(said["tokens"], said["token_type"], strict=False)
    marks = [token for token, kind in found if kind in _MARKS and token[:1] + token[-1:] == "<>"]
    return {token: "".join(spelling[byte] for byte in token.encode()) for token in marks if not set(token) <= alphabet}


def _with_marks(backend: Tokenizer, marks: dict[str, str]) -> Tokenizer:
    """The same with these marks whole, under the numbers they have in the file."""
    said = json.loads(backend.to_str())
    vocabulary = said["model"]["vocab"]
    for token, spelt in marks.items():
        vocabulary[token] = vocabulary.pop(spelt)
    whole = Tokenizer.from_str(json.dumps(said))
    whole.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in marks])
    return whole


def check_reloaded(tokenizer: PreTrainedTokenizerBase, folder: Path, where: str) -> None:
    """Raises ModelError where what was saved into `folder`, beside its config.json, is loaded as something else."""
    loaded = AutoTokenizer.from_pretrained(folder)
    if _way(loaded) != _way(tokenizer) or len(loaded) != len(tokenizer):
        raise ModelError(f"{where} has a tokenizer that transformers would load as another one: name another file.")


def _way(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """How text becomes pieces and pieces become text, apart from the vocabulary itself."""
    said = json.loads(tokenizer.backend_tokenizer.to_str())
    said["model"] = {key: value for key, value in said["model"].items() if key not in ("vocab", "merges")}
    return {key: said[key] for key in ("normalizer", "pre_tokenizer", "model", "decoder")}


def _follow_prefix(backend: Tokenizer, head: Head) -> None:
    """A sentencepiece vocabulary may say that no space is put before a text."""
    if head.fields.get("tokenizer.ggml.add_space_prefix", True) or head.architecture in GGUF_SENTENCEPIECE_BUILDERS:
        return
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
