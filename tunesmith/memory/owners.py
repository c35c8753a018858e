"""Whose the bytes are, in a few kinds with a colour each, so that pictures of several phases can be compared.

The colours are those of Okabe and Ito (Color Universal Design, 2008), which the colour-blind tell apart, and greys.
"""

from typing import NamedTuple

from tunesmith.memory.said import BillItem


class Owner(NamedTuple):
    """A kind of owner."""

    name: str
    fill: str
    ink: str
    """Colour of words on the fill."""
    items: tuple[str, ...] = ()
    """What the names of its items begin with."""


_DARK, _LIGHT = "#1b1b1b", "#ffffff"

CONTEXT = Owner("context", "#4d4d4d", _LIGHT, ("process", "CUDA context", "CUDA graphs", "NCCL"))
OTHER = Owner("other", "#8f8f8f", _DARK)
SLACK = Owner("slack", "#d0d0d0", _DARK, ("allocator slack", "held by malloc"))

OWNERS = (
    CONTEXT,
    Owner("weights", "#0072b2", _LIGHT, ("weights", "adapter", "embedding, head, norms", "largest weight file")),
    Owner("optimizer states", "#cc79a7", _DARK, ("optimizer states",)),
    Owner("gradients", "#d55e00", _DARK, ("gradients",)),
    Owner(
        "activations",
        "#009e73",
        _DARK,
        (
            "activations", "one block's activations", "attention mask", "last hidden states", "tokens and positions",
            "calibration rows",
        ),
    ),
    Owner("logits and loss", "#e69f00", _DARK, ("logits",)),
    Owner("KV cache", "#56b4e9", _DARK, ("KV cache",)),
    Owner(
        "temporaries",
        "#f0e442",
        _DARK,
        (
            "temporaries", "recomputed", "one block's temporaries", "optimizer's temporaries", "autocast copies",
            "gathered weights", "gradient buckets", "reduce and all-gather buckets", "buckets",
            "Hessian", "one layer", "one tensor and its update", "experts, taken apart", "copies of weights and states",
        ),
    ),
    OTHER,
    SLACK,
)  # fmt: skip
"""In the order in which they are stacked: what stands for the whole run first, what comes and goes last."""


def owner_of(item: BillItem) -> Owner:
    """The owner of a bill's item: by its kind, else by its name."""
    return {"context": CONTEXT, "slack": SLACK}.get(item.kind) or owner_named(item.item)


def owner_named(name: str) -> Owner:
    """The owner of something called so in a bill or a simulation; `OTHER` for what no table row begins like."""
    return next((owner for owner in OWNERS if owner.items and name.startswith(owner.items)), OTHER)
