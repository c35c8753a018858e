"""Whether a base can be trained and merged into at all: its weights must not be packed already."""

import re

from tunesmith.artifacts import ModelSource
from tunesmith.errors import ModelError
from tunesmith.memory import catalogue

_KEYS = ("quantization_config", "quantization", "compression_config")
"""Where config.json says so: transformers, MLX, and compressed-tensors before 0.7."""
_ENDING = re.compile(
    r"(?:[-_.](?:gptq|awq|bnb|fp8|nf4|nvfp4|mxfp4|int[48]|[48]-?bits?|w\da\d+|quantized|dynamic|autoround|g?128g?|mlx))+$",
    re.IGNORECASE,
)
"""How the name of a packed copy ends."""


def check_base(source: ModelSource) -> None:
    """Raises ModelError for weights that are packed already, with the repo that by its name holds the 16-bit ones."""
    if method := _packing(source):
        raise ModelError(
            f"{source.repo} is quantized already ({method}), so it can neither be trained nor take an adapter in: "
            f"start from the 16-bit weights{_hint(source.repo)}; qlora packs them itself."
        )


def unpacked_name(repo: str) -> str | None:
    """The repo that a packed copy was made from, by its name: one of the catalogue's, or the owner's own."""
    owner, _, name = repo.rpartition("/")
    original = _ENDING.sub("", name)
    if original == name or owner in ("", "local"):
        return None
    known = (repo for repo in catalogue.known() if repo.partition("/")[2].lower() == original.lower())
    return next(known, f"{owner}/{original}")


def _packing(source: ModelSource) -> str | None:
    """None, or the method as the file calls it."""
    inner = source.config.get("text_config")
    for config in (source.config, inner if isinstance(inner, dict) else {}):
        for key in _KEYS:
            if found := config.get(key):
                return str(found.get("quant_method", key)) if isinstance(found, dict) else key
    return None


def _hint(repo: str) -> str:
    name = unpacked_name(repo)
    return f", by its name those of {name}" if name else ""
