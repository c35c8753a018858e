"""GGUF files by their names: which of a repo's files are some, which one was asked for, and what to say if none was."""

import difflib
import re
from collections.abc import Iterable

from tunesmith.artifacts import FileEntry
from tunesmith.errors import ModelError

SUFFIX = ".gguf"
_PART = re.compile(r".*-\d{5}-of-(\d{5})\.gguf")
_SHOWN = 8


def is_gguf(paths: Iterable[str]) -> bool:
    """Whether there is a GGUF among the names."""
    return any(_is_one(path) for path in paths)


def pick(files: Iterable[FileEntry], name: str, where: str) -> FileEntry:
    """The file that `model.gguf` names. Raises ModelError when it is not there, or is a part of one; `where` names it.

    Neither the gguf library nor transformers reads a model out of several files.
    """
    by_path = {entry.path: entry for entry in files}
    if name not in by_path:
        raise ModelError(f"{where} has no file {name}: {_hint(name, by_path)}")
    if (part := _PART.fullmatch(name)) and int(part[1]) > 1:
        raise ModelError(
            f"{name} of {where} is one of {int(part[1])} parts, and only a whole GGUF can be read: "
            "name a file that is in one piece, or join the parts with `llama-gguf-split --merge`."
        )
    return by_path[name]


def only_gguf(paths: Iterable[str], where: str) -> ModelError:
    """What to say of a repo or a folder that holds no other weights, where the recipe named none of them."""
    return ModelError(
        f"{where} holds its weights only as GGUF: set model.gguf to the file to start from, one of {_listed(paths)}."
    )


def _hint(wanted: str, known: Iterable[str]) -> str:
    there = [path.removesuffix(SUFFIX) for path in known if _is_one(path)]
    nearest = difflib.get_close_matches(wanted.removesuffix(SUFFIX), there, n=1, cutoff=0.5)
    if nearest:
        return f"did you mean {nearest[0]}{SUFFIX}?"
    return f"it has {_listed(known)}." if there else "it has no GGUF at all."


def _listed(paths: Iterable[str]) -> str:
    there = sorted(path for path in paths if _is_one(path))
    more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
    return ", ".join(there[:_SHOWN]) + more


def _is_one(path: str) -> bool:
    return path.endswith(SUFFIX)
