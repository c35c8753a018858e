"""What a program allocates, seen from torch's dispatcher: every block, what made it, and when it was given up.

A block is a tensor's storage; it ends when the last tensor on it does, which a weak reference tells. Fake tensors have
storages with a size and no memory, so a model of any size can be followed.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tunesmith.memory.allocator import Event, Mark
from tunesmith.memory.segments import rounded_up

Moment = Literal["load", "forward", "backward", "optimizer"]
Substitutes = Mapping[Any, Callable[..., Any]]
"""By operator: what is computed instead, out of other operators."""


class Place(NamedTuple):
    """The module at work."""

    kind: str
    """What practitioners call it: attention, MLP, norms; empty outside of any."""
    is_adapted: bool = False
    """A layer with an adapter beside it, which it casts its input for."""


NOWHERE = Place("")
BLOCK = Place("residual stream")
"""A decoder block outside of its parts."""

_ADD, _ADD_IN_PLACE = torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor
_UNSHARED = 2
"""References to the storage of a tensor that shares it with none: its own, and the one from Python."""


class Block(NamedTuple):
    """One storage, and the circumstances it was made in."""

    size: int
    """Bytes."""
    op: str
    """The operator, without namespace and overload."""
    place: Place
    moment: Moment
    shape: tuple[int, ...]
    """Of the first tensor on it."""
    source: int | None
    """For a copy in another type or device: the block copied."""


class Tracer(TorchDispatchMode):  # type: ignore[misc]
    """Follows what is allocated while it is entered, inside a FakeTensorMode or over real tensors."""

    def __init__(self, substitutes: Substitutes, grain_bytes: int) -> None:
        super().__init__()
        self.stream: list[Event | Mark] = []
        self.blocks: list[Block] = []
        """By the stream's number."""
        self.place = NOWHERE
        self.moment: Moment = "load"
        self._substitutes = substitutes
        self._grain_bytes = grain_bytes
        self._live: dict[int, tuple[weakref.ref[Any], int]] = {}
        """By the storage's address: what tells its end, and its block."""
        self._is_blind = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and guarding against it would take longer than what is guarded."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if (substitute := self._substitutes.get(func)) is not None:
            with self:
                return substitute(*args, **(kwargs or {}))
        if func is _ADD and self._is_gathered(*args[:2]):
            func = _ADD_IN_PLACE
        made = func(*args, **(kwargs or {}))
        if not self._is_blind:
            for tensor in _tensors(made):
                self._see(tensor, func, args)
        return made

    def mark(self, name: str) -> None:
        """A phase of the stream begins here."""
        self.stream.append(Mark(name))

    def block_of(self, tensor: Tensor) -> int | None:
        """The number of the block the tensor lies on; None where it was not seen being made."""
        known = self._live.get(tensor.untyped_storage()._cdata)
        return known[1] if known else None

    def alive(self) -> list[int]:
        """The numbers of the blocks there are now."""
        return [number for _, number in self._live.values()]

    @contextmanager
    def blind(self) -> Iterator[None]:
        """What is made within is not the device's memory."""
        self._is_blind = True
        try:
            yield
        finally:
            self._is_blind = False

    def _is_gathered(self, gathered: Any, more: Any) -> bool:
        """Whether autograd is summing up a gradient that nothing else holds: the first of them takes the sum then.

        It does not do so for tensors it does not know, such as fake ones (torch/csrc/autograd/input_buffer.cpp).
        """
        if self.moment != "backward" or torch.is_grad_enabled() or not isinstance(more, Tensor):
            return False
        storage = gathered.untyped_storage()
        is_whole: bool = storage.nbytes() == gathered.numel() * gathered.element_size()
        return is_whole and bool(torch._C._storage_Use_Count(storage._cdata) == _UNSHARED)

    def _see(self, tensor: Tensor, func: Any, args: tuple[Any, ...]) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address in self._live or not size:
            return
        number, op = len(self.blocks), func._opname
        source = self.block_of(args[0]) if op == "_to_copy" else None
        self._live[address] = (weakref.ref(storage, partial(self._ended, address)), number)
        size = rounded_up(size, self._grain_bytes)
        self.blocks.append(Block(size, op, self._where(), self.moment, tuple(tensor.shape), source))
        self.stream.append(Event(number, size))

    def _where(self) -> Place:
        """A block's forward pass is run again without the module being called."""
        is_rerun = self.moment == "backward" and self.place is NOWHERE and torch.is_grad_enabled()
        return BLOCK if is_rerun else self.place

    def _ended(self, address: int, reference: Any) -> None:
        self.stream.append(Event(self._live.pop(address)[1], 0))


def _tensors(made: Any) -> Iterator[Tensor]:
    if isinstance(made, Tensor):
        yield made
    elif isinstance(made, list | tuple):
        for part in made:
            yield from _tensors(part)


def answered(tensor: Tensor) -> bool | int:
    """Stands for reading a number out of a fake tensor: no flag is set, and every count is one."""
    return False if tensor.dtype == torch.bool else 1
