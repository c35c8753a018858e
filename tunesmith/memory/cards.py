"""A small table of GPUs, to say which one would do."""

from tunesmith.artifacts import Device
from tunesmith.memory.constants import GIB

CARDS: tuple[Device, ...] = tuple(
    Device(name=name, memory_bytes=gib * GIB)
    for name, gib in (
        ("RTX 3060", 12),
        ("RTX 4080", 16),
        ("RTX 4090", 24),
        ("RTX 5090", 31),
        ("RTX 6000 Ada", 47),
        ("A100 80GB", 79),
        ("H200", 139),
        ("B200", 178),
    )
)
"""By memory, in the whole GiB the driver reports, smallest first."""
