"""The head of a GGUF file: key-values and the table of tensors, walked without believing a length or a count.

The format (version 2 and 3, little-endian): magic, version, number of tensors, number of key-values; then the
key-values, then name, shape, kind and offset of each tensor; then, aligned, the tensors' bytes.
"""

import struct
from typing import Any, NamedTuple

MOST_BYTES = 64 << 20
"""No head is longer: the largest vocabularies take 20 MiB."""
_MOST_FIELDS = 10_000
_MOST_TENSORS = 100_000
_MOST_LAYERS = 1000
_MOST_ELEMENTS = 1 << 21
"""Of all arrays together: a vocabulary of 262,144 has its tokens, scores, kinds and merges."""
_MOST_DIMENSIONS = 4
_MOST_PER_BYTE = 8
"""Weights: the tightest packing has five in a byte."""
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_ALIGNMENT = 32
_VOCABULARY = ("tokenizer.ggml.merges", "tokenizer.ggml.scores", "tokenizer.ggml.token_type")
"""All but the tokens themselves, whose number a model's size may depend on."""

Value = int | float | bool | str


class Incomplete(Exception):
    """The head goes on behind what was given."""

    def __init__(self, at_least: int) -> None:
        super().__init__(f"the head has {at_least:,} bytes or more")
        self.at_least = at_least
        """Bytes from the file's beginning."""


class Unusable(Exception):
    """It is no GGUF that can be read; the text says why, as a clause."""


class Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]
    """As the file has it: the innermost dimension first."""
    kind: int
    """GGML's number for how it is packed."""
    offset: int
    """Of its bytes, counted from the head's end."""

    @property
    def numbers(self) -> int:
        product = 1
        for length in self.shape:
            product *= length
        return product


class Head(NamedTuple):
    """What stands before the weights."""

    size: int
    """Bytes before the first tensor's."""
    spans: dict[str, tuple[int, int]]
    """Where each key-value begins and ends."""
    table: tuple[int, int]
    """Where the table of tensors does."""
    fields: dict[str, Value]
    """Scalars and strings."""
    arrays: dict[str, int]
    """Lengths."""
    tensors: tuple[Tensor, ...]

    def text(self, key: str) -> str:
        """The string under `key`; empty where there is none."""
        value = self.fields.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> float:
        """The number under `key`; 0 where there is none."""
        value = self.fields.get(key)
        return value if isinstance(value, int | float) else 0

    @property
    def architecture(self) -> str:
        return self.text("general.architecture")


def read_head(content: bytes, file_bytes: int) -> Head:
    """The head that `content`, the first bytes of a file of `file_bytes`, begins with.

    Raises Incomplete when it goes on behind `content`, Unusable when it is damaged, cut off, or asks for too much.
    """
    walk = _Walk(content, file_bytes)
    if walk.take(4) != b"GGUF":
        raise Unusable("its first bytes are not GGUF")
    if (version := walk.scalar(4)) not in _VERSIONS:
        raise Unusable(f"it is of version {version}, where 2 and 3 are known")
    num_tensors = walk.count(walk.scalar(10), _MOST_TENSORS, "tensors")
    num_fields = walk.count(walk.scalar(10), _MOST_FIELDS, "settings")
    head = Head(0, {}, (0, 0), {}, {}, ())
    for _ in range(num_fields):
        _read_field(walk, head)
    begin = walk.at
    tensors = tuple(_read_tensor(walk) for _ in range(num_tensors))
    head = head._replace(size=_aligned(walk.at, head.fields), table=(begin, walk.at), tensors=tensors)
    _check(head, file_bytes)
    return head


def lean(content: bytes, head: Head) -> bytes:
    """The head without what only a tokenizer needs, which is most of it; `content` begins with the whole one."""
    kept = [span for key, span in head.spans.items() if key not in _VOCABULARY]
    start = content[:16] + struct.pack("<Q", len(kept))
    settings = b"".join(content[begin:end] for begin, end in kept)
    found = start + settings + content[slice(*head.table)]
    return found.ljust(_aligned(len(found), head.fields), b"\0")


def _aligned(size: int, fields: dict[str, Value]) -> int:
    """Raises Unusable for an alignment that is none."""
    alignment = fields.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 16 or alignment & (alignment - 1):
        raise Unusable(f"its alignment is {alignment!r}, no power of two")
    return -(-size // alignment) * alignment


class _Walk:
    """A place in the bytes, which only moves on over bytes that may be there."""

    def __init__(self, content: bytes, file_bytes: int) -> None:
        self._content, self._file_bytes = content, file_bytes
        self._elements = 0
        self.at = 0

    def reach(self, size: int) -> None:
        """Raises unless the next `size` bytes are at hand."""
        end = self.at + size
        if end > self._file_bytes:
            raise Unusable(f"its head is damaged, or goes on behind the file's {self._file_bytes:,} bytes")
        if end > MOST_BYTES:
            raise Unusable(f"its head is damaged, or longer than {MOST_BYTES >> 20} MiB")
        if end > len(self._content):
            raise Incomplete(end)

    def take(self, size: int) -> bytes:
        self.reach(size)
        self.at += size
        return self._content[self.at - size : self.at]

    def scalar(self, kind: int) -> Any:
        """A number or a truth value, of a kind that is known to be one."""
        form = _SCALARS[kind]
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        try:
            return self.take(self.scalar(10)).decode()
        except UnicodeDecodeError as error:
            raise Unusable("its head is damaged: a name in it is no UTF-8") from error

    def count(self, number: int, most: int, of: str) -> int:
        if number > most:
            raise Unusable(f"its head is damaged: it speaks of {number:,} {of}")
        return number

    def skip_array(self) -> int:
        """Its length."""
        kind = self.scalar(4)
        length = self.count(self.scalar(10), _MOST_ELEMENTS, "elements of an array")
        self._elements = self.count(self._elements + length, _MOST_ELEMENTS, "elements of arrays")
        if kind in _SCALARS:
            self.take(length * struct.calcsize(_SCALARS[kind]))
        elif kind == _STRING:
            self._skip_strings(length)
        else:
            raise Unusable(f"its head is damaged, or has an array of kind {kind}")
        return length

    def _skip_strings(self, length: int) -> None:
        for left in range(length, 0, -1):
            self.reach(8 * left)
            (size,) = struct.unpack_from("<Q", self._content, self.at)
            self.at += 8
            self.reach(size)
            self.at += size


def _read_field(walk: _Walk, head: Head) -> None:
    begin, key, kind = walk.at, walk.text(), walk.scalar(4)
    if key in head.spans:
        raise Unusable(f"its head is damaged: it says {key!a} twice")
    if kind == _ARRAY:
        head.arrays[key] = walk.skip_array()
    elif kind == _STRING:
        head.fields[key] = walk.text()
    elif kind in _SCALARS:
        head.fields[key] = walk.scalar(kind)
    else:
        raise Unusable(f"its head is damaged: {key!a} is of kind {kind}")
    head.spans[key] = begin, walk.at


def _read_tensor(walk: _Walk) -> Tensor:
    name = walk.text()
    dimensions = walk.count(walk.scalar(4), _MOST_DIMENSIONS, f"dimensions of {name!a}")
    shape = tuple(walk.scalar(10) for _ in range(dimensions))
    return Tensor(name, shape, kind=walk.scalar(4), offset=walk.scalar(10))


def _check(head: Head, file_bytes: int) -> None:
    """What a model could not be built from, or only with more memory than its weights take."""
    if not head.tensors:
        raise Unusable("it holds no weights")
    if len({tensor.name for tensor in head.tensors}) < len(head.tensors):
        raise Unusable("its head is damaged: it names a tensor twice")
    if sum(tensor.numbers for tensor in head.tensors) > _MOST_PER_BYTE * file_bytes:
        raise Unusable("its head is damaged, or the file is cut off: its weights are larger than the file")
    layers = head.number(f"{head.architecture}.block_count")
    if not 0 < layers <= min(len(head.tensors), _MOST_LAYERS):
        raise Unusable(f"its head is damaged: it speaks of {layers} layers, and names {len(head.tensors)} tensors")
