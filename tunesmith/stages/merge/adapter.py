"""A LoRA adapter as pairs of matrices by the base weight they change, and what about it cannot be merged."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict

from tunesmith.errors import CorruptArtifact, ModelError
from tunesmith.stages.merge.weights import Layout, Stored, read, read_header

_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"


class LoraSettings(BaseModel):
    """What of adapter_config.json decides the arithmetic; the rest is for training."""

    model_config = ConfigDict(extra="ignore")

    peft_type: str
    r: int
    lora_alpha: float
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    lora_bias: bool = False
    bias: str = "none"
    modules_to_save: list[str] | None = None
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}
    layer_replication: list[list[int]] | None = None
    target_parameters: list[str] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None

    @property
    def scale(self) -> float:
        """alpha / r (arXiv 2106.09685, section 4.1), or alpha / sqrt(r) (rank-stabilized, arXiv 2312.03732)."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def objection(self) -> str | None:
        """None, or what this adapter has that is not a plain low-rank update."""
        if self.peft_type != "LORA":
            return f"of type {self.peft_type}"
        plain = {"bias": "none"}
        extra = (
            "use_dora", "fan_in_fan_out", "lora_bias", "bias", "modules_to_save", "rank_pattern", "alpha_pattern",
            "layer_replication", "target_parameters", "trainable_token_indices",
        )  # fmt: skip
        found = [name for name in extra if getattr(self, name) and getattr(self, name) != plain.get(name)]
        return f"with {', '.join(found)}" if found else None


class Update(NamedTuple):
    """The change of one weight: scale * B A, of the weight's shape."""

    a: Stored
    """(rank, in features)"""
    b: Stored
    """(out features, rank)"""
    scale: float

    def applied_to(self, weight: torch.Tensor) -> torch.Tensor:
        """`weight + scale * B A` in float32, not rounded."""
        changed = read(self.b).float() @ read(self.a).float()
        changed *= self.scale
        changed += weight
        return changed


def read_updates(folder: Path, base: Layout) -> dict[str, Update]:
    """The adapter in `folder` by the name of the base weight each pair changes.

    Raises ModelError for an adapter that is more than a low-rank update, CorruptArtifact for a tensor without its
    partner, without a weight in `base` to change, or of a shape that does not fit it.
    """
    settings = LoraSettings.model_validate_json((folder / "adapter_config.json").read_bytes())
    if reason := settings.objection():
        raise ModelError(f"An adapter {reason} cannot be merged here: train a plain LoRA or QLoRA adapter.")
    tensors = {tensor.name: tensor for tensor in read_header(folder / "adapter_model.safetensors")}
    weights = {tensor.name: tensor for stored in base.values() for tensor in stored}
    updates = {}
    for name in [name for name in tensors if name.endswith(_A)]:
        module = name.removesuffix(_A)
        a, b = tensors.pop(name), tensors.pop(module + _B, None)
        target = module.removeprefix(_PREFIX) + ".weight"
        if b is None:
            raise _corrupt(name, "has no lora_B beside it")
        if reason := _misfit(a, b, weights.get(target), settings.r):
            raise _corrupt(name, reason)
        updates[target] = Update(a, b, settings.scale)
    for name in tensors:
        raise _corrupt(name, "belongs to no pair of lora_A and lora_B")
    return updates


def _misfit(a: Stored, b: Stored, weight: Stored | None, rank: int) -> str | None:
    """None, or why the pair does not fit the weight."""
    if weight is None:
        return "has no weight in the base to change"
    if a.shape[0] != rank or b.shape[1] != rank or (b.shape[0], a.shape[1]) != weight.shape:
        return f"and its lora_B, {a.shape} and {b.shape}, do not fit the base's weight {weight.shape} at rank {rank}"
    return None


def _corrupt(name: str, reason: str) -> CorruptArtifact:
    return CorruptArtifact(f"The adapter's {name} {reason}: train it again on this base.")
