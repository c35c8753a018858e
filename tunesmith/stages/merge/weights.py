"""Safetensors files a piece at a time: the layout read from the headers, the bytes copied or made one tensor at a time.

The format: eight bytes, the header's length (little-endian); the header, JSON from tensor name to dtype, shape and
byte range; then the tensors' bytes without gaps. See github.com/huggingface/safetensors, "Format".
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from tunesmith.errors import ModelError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Tensor types of the format that can be read here."""
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_ALIGNMENT = 8
_PIECE_BYTES = 64 << 20


class Stored(NamedTuple):
    """One tensor in a file."""

    name: str
    dtype: str
    """A key of DTYPES."""
    shape: tuple[int, ...]
    file: Path
    start: int
    """Offset in the file, bytes."""

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * int(DTYPES[self.dtype].itemsize)


Layout = dict[str, list[Stored]]
"""By file name, in the order the tensors lie in it."""


def read_layout(folder: Path) -> Layout:
    """Which tensors a model folder holds, and where; raises ModelError when it holds no safetensors model."""
    index = folder / INDEX
    if index.exists():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    elif (folder / SINGLE).exists():
        names = [SINGLE]
    else:
        raise ModelError(f"There is neither {SINGLE} nor {INDEX} in the model's folder: choose a safetensors model.")
    return {name: list(read_header(folder / name)) for name in names}


def read_header(path: Path) -> Iterator[Stored]:
    """The tensors of one file; raises ModelError for a type that cannot be merged into, such as 8-bit floats."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
        if entry["dtype"] not in DTYPES:
            raise ModelError(f"{path.name} holds {name} as {entry['dtype']}: start from the model's 16-bit weights.")
        yield Stored(name, entry["dtype"], tuple(entry["shape"]), path, 8 + length + entry["data_offsets"][0])


def read(stored: Stored) -> torch.Tensor:
    """The tensor, in its own dtype and shape; memory for it alone."""
    content = bytearray(stored.num_bytes)
    with stored.file.open("rb") as file:
        file.seek(stored.start)
        file.readinto(content)
    if not content:
        return torch.empty(stored.shape, dtype=DTYPES[stored.dtype])
    return torch.frombuffer(content, dtype=DTYPES[stored.dtype]).reshape(stored.shape)


def copied(stored: Stored) -> Iterator[bytes]:
    """The tensor's bytes as they are, in pieces."""
    left = stored.num_bytes
    with stored.file.open("rb") as file:
        file.seek(stored.start)
        while left:
            piece = file.read(min(left, _PIECE_BYTES))
            left -= len(piece)
            yield piece


def cast(stored: Stored, dtype: str) -> Iterator[memoryview]:
    """The tensor's bytes in another dtype, in pieces."""
    for piece in copied(stored):
        yield raw(torch.frombuffer(bytearray(piece), dtype=DTYPES[stored.dtype]).to(DTYPES[dtype]))


def raw(tensor: torch.Tensor) -> memoryview:
    """A tensor's bytes, not copied."""
    view: memoryview = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return view


def write_file(path: Path, tensors: Sequence[Stored], make: Callable[[Stored], Iterable[bytes | memoryview]]) -> None:
    """Writes a file of `tensors`, whose dtype is the one to write; `make` yields each one's bytes when its turn comes.

    Wider types come first, as in the library's own files, so that every tensor is aligned to its size.
    """
    ordered = sorted(tensors, key=lambda tensor: -DTYPES[tensor.dtype].itemsize)
    with path.open("wb") as file:
        file.write(_header(ordered))
        for tensor in ordered:
            begun = file.tell()
            for piece in make(tensor):
                file.write(piece)
            assert file.tell() - begun == tensor.num_bytes, tensor.name


def write_index(folder: Path, layout: Layout) -> None:
    """The index of a model in several files, as transformers and vLLM read it."""
    total = sum(tensor.num_bytes for tensors in layout.values() for tensor in tensors)
    weight_map = {tensor.name: name for name, tensors in layout.items() for tensor in tensors}
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(content, indent=2) + "\n")


def _header(tensors: Sequence[Stored]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.num_bytes
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
