"""GGUF files for tests: real ones of tiny models, the same with other settings, and heads that nobody would write."""

import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunesmith.environments import CHECKOUT, interpreter
from tunesmith.hub.gguf_head import read_head

Setting = int | float | bool | str | Sequence[str] | Sequence[int] | Sequence[float] | None
Table = Sequence[tuple[str, Sequence[int], int]]
"""Name, shape and kind of each tensor."""


def tiny_ggufs(folder: Path, *asked: str) -> Path:
    """Of each FAMILY:KIND the file `folder/FAMILY-KIND.gguf` and the folder of the same model beside it."""
    command = [str(interpreter("train")), "tests/tiny_gguf.py", str(folder), *asked]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def rewritten(source: Path, target: Path, settings: Mapping[str, Setting], padding: int = 0) -> Path:
    """The same file with other settings, those that are None left out; `padding` bytes are put behind its weights."""
    content = source.read_bytes()
    head = read_head(content, len(content))
    kept = [content[slice(*span)] for key, span in head.spans.items() if key not in settings]
    kept += [_pair(key, value) for key, value in settings.items() if value is not None]
    start = struct.pack("<4sIQQ", b"GGUF", 3, len(head.tensors), len(kept))
    new = start + b"".join(kept) + content[slice(*head.table)]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(new.ljust(-(-len(new) // 32) * 32, b"\0") + content[head.size :] + bytes(padding))
    return target


def head_of(settings: Mapping[str, Setting], table: Table, counts: tuple[int, int] | None = None) -> bytes:
    """A head written by hand; `counts` are what it says of the numbers of tensors and of settings."""
    tensors, fields = counts or (len(table), len(settings))
    content = struct.pack("<4sIQQ", b"GGUF", 3, tensors, fields)
    content += b"".join(_pair(key, value) for key, value in settings.items())
    for name, shape, kind in table:
        content += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, 0)
    return content.ljust(-(-len(content) // 32) * 32, b"\0")


def _pair(key: str, value: Setting) -> bytes:
    return _text(key) + _value(value)


def _value(value: Setting) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _text(value)
        case _:
            items = [_value(item) for item in value or ()]
            return struct.pack("<I", 9) + items[0][:4] + struct.pack("<Q", len(items)) + b"".join(i[4:] for i in items)


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw
