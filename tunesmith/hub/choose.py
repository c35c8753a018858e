"""Which of a repo's files a pipeline needs: safetensors, configuration, tokenizer; code and pickles when told to."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from tunesmith.artifacts import FileEntry
from tunesmith.errors import ModelError, OnlyPickles
from tunesmith.hub.gguf_names import is_gguf, only_gguf

WHOLE, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
_PICKLED_SHARD = re.compile(r"pytorch_model-(\d{5})-of-(\d{5})\.bin")
CODE = "*.py"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "*.tiktoken",
    "tekken.json",
)
_SMALL = (
    "config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "merges.txt", "sentencepiece.bpe.model", "chat_template.jinja", "chat_template.json",
    "additional_chat_templates/*.jinja", *_TOKENIZERS,
)  # fmt: skip


def choose(files: Iterable[FileEntry], where: str, code: bool = False, pickles: bool = False) -> tuple[FileEntry, ...]:
    """The files to download, sorted by path; `code`: the model's own Python too; `pickles`: where there is no better.

    Raises OnlyPickles, or ModelError when weights, configuration or tokenizer are missing; `where` names the repo.
    """
    by_path = {entry.path: entry for entry in files}
    wanted = (*_SMALL, CODE) if code else _SMALL
    small = {path: entry for path, entry in by_path.items() if _matches(path, wanted)}
    weights = _pickled(by_path, where) if pickles and is_pickled(by_path) else _weights(by_path, where)
    if "config.json" not in small:
        raise ModelError(f"{where} has no config.json: name a repo that holds a whole transformers model.")
    if not any(_matches(path, _TOKENIZERS) for path in small):
        raise ModelError(f"{where} has no tokenizer: name a repo that holds tokenizer.json beside the weights.")
    chosen = small | weights
    return tuple(chosen[path] for path in sorted(chosen))


def _weights(by_path: dict[str, FileEntry], where: str) -> dict[str, FileEntry]:
    if WHOLE in by_path:
        return {WHOLE: by_path[WHOLE]}
    shards = {path: entry for path, entry in by_path.items() if _SHARD.fullmatch(path)}
    if not shards:
        raise _no_weights(by_path, where)
    total = max(int(path[-len("00000.safetensors") : -len(".safetensors")]) for path in shards)
    wanted = [f"model-{number:05d}-of-{total:05d}.safetensors" for number in range(1, total + 1)]
    missing = [path for path in (*wanted, INDEX) if path not in by_path]
    if missing:
        raise ModelError(f"{where} lacks {missing[0]} ({len(missing)} missing): name a revision that is complete.")
    return {path: by_path[path] for path in (*wanted, INDEX)}


def is_pickled(paths: Iterable[str]) -> bool:
    """Whether the weights are there, and as pickles only."""
    names = list(paths)
    if any(name == WHOLE or _SHARD.fullmatch(name) for name in names):
        return False
    return any(name == PICKLED or _PICKLED_SHARD.fullmatch(name) for name in names)


def _pickled(by_path: dict[str, FileEntry], where: str) -> dict[str, FileEntry]:
    if PICKLED in by_path:
        return {PICKLED: by_path[PICKLED]}
    total = max(int(match[2]) for path in by_path if (match := _PICKLED_SHARD.fullmatch(path)))
    wanted = [f"pytorch_model-{number:05d}-of-{total:05d}.bin" for number in range(1, total + 1)]
    missing = [path for path in (*wanted, PICKLED_INDEX) if path not in by_path]
    if missing:
        raise ModelError(f"{where} lacks {missing[0]} ({len(missing)} missing): name a revision that is complete.")
    return {path: by_path[path] for path in (*wanted, PICKLED_INDEX)}


def _no_weights(by_path: dict[str, FileEntry], where: str) -> ModelError:
    if ADAPTER in by_path:
        return ModelError(f"{where} holds an adapter, not a model: name the base model it was trained on.")
    if is_gguf(by_path):
        return only_gguf(by_path, where)
    if any(_matches(path, _PICKLES) for path in by_path):
        return OnlyPickles(
            f"{where} holds its weights only as pickles, which can run code when loaded: "
            "name a revision or a repo with safetensors, "
            "or set model.allow_pickles to have their tensors read, and no more."
        )
    return ModelError(f"{where} holds no weights ({WHOLE}, or shards and their index): check that it is a model repo.")


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path, pattern) and path.count("/") == pattern.count("/") for pattern in patterns)
