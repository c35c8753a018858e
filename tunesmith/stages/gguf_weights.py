"""Whether the tensors that a GGUF names are those of the model it describes, before any of their bytes is read."""

from collections import defaultdict

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.integrations.gguf.dequant import GGML_BLOCK
from transformers.integrations.gguf.gguf_conversion_mapping import GGUF_ARCHS
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

from tunesmith.errors import ModelError
from tunesmith.hub.gguf_head import Head
from tunesmith.stages.gguf_config import unknown

FACTORS = "rope_freqs.weight"
"""Follows from the configuration; no weight."""
_PLAIN = (0, 1, 30)
"""float32, float16, bfloat16."""


def check_weights(config: PreTrainedConfig, head: Head, where: str) -> PreTrainedModel:
    """The model without its numbers, once it is clear that the file fills it.

    Raises ModelError for tensors that are missing, too many, or of another size; UnknownArchitecture for what is no
    causal language model.
    """
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        if head.architecture not in GGUF_ARCHS:
            _check_tensors(model, head, where)
    except (ValueError, NotImplementedError) as error:
        raise unknown(head, where) from error
    return model


def check_packing(head: Head, where: str, file_bytes: int) -> None:
    """Raises ModelError for weights that cannot be unpacked, and for those that end behind the file's `file_bytes`."""
    for kind in sorted({tensor.kind for tensor in head.tensors}):
        if not (_unpacks_itself(kind) if head.architecture in GGUF_ARCHS else _unpacks(kind)):
            name = GGMLQuantizationType(kind).name if kind in list(GGMLQuantizationType) else f"kind {kind}"
            raise ModelError(
                f"{where} is packed as {name}, which cannot be unpacked here: name another file, such as one in q8_0."
            )
    for tensor in head.tensors:
        numbers, size = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)]
        if head.size + tensor.offset + tensor.numbers // numbers * size > file_bytes:
            raise ModelError(f"{where} is cut off: {tensor.name} would go on behind its end; fetch it again.")


def _unpacks_itself(kind: int) -> bool:
    return kind in _PLAIN or kind in GGML_BLOCK


def _unpacks(kind: int) -> bool:
    """Whether the gguf library can, tried on one block of zeros."""
    try:
        packing = GGMLQuantizationType(kind)
        dequantize(np.zeros((1, GGML_QUANT_SIZES[packing][1]), dtype=np.uint8), packing)
    except (ValueError, KeyError, NotImplementedError):
        return False
    return True


class _Flat:
    """A model as the mapping of names wants it, but for its parts: one by one, each costs as much as the whole."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.config, self.state_dict = model.config, model.state_dict

    def named_children(self) -> tuple[()]:
        return ()


def _places(model: PreTrainedModel, head: Head) -> dict[str, str]:
    """Which of the model's weights each of the file's tensors is, or is a part of; those without a place left out."""
    processor = TENSOR_PROCESSORS.get(head.architecture, TensorProcessor)(config=model.config.to_dict())
    names = [tensor.name for tensor in head.tensors if tensor.name != FACTORS]
    places: dict[str, str] = {}
    for asked in (_Flat(model), model):
        known = get_gguf_hf_weights_map(asked, processor)
        for name in names:
            if place := known.get(name) or known.get(name.removesuffix(".weight")):
                places.setdefault(name, place)
        if len(places) == len(names):
            break
    return places


def _check_tensors(model: PreTrainedModel, head: Head, where: str) -> None:
    places = _places(model, head)
    wanted = {name: values.numel() for name, values in model.state_dict().items()}
    found: defaultdict[str, int] = defaultdict(int)
    for tensor in head.tensors:
        place = places.get(tensor.name, "")
        if place in wanted:
            found[place] += tensor.numbers
        elif tensor.name != FACTORS:
            raise ModelError(
                f"{where} holds {tensor.name}, for which a {model.config.model_type} model has no place: "
                "name a repo or a folder with its safetensors."
            )
    for name in sorted(wanted.keys() - found.keys() - set(model.all_tied_weights_keys)):
        raise ModelError(f"{where} lacks {name}: fetch the file again, or name another one.")
    for name, numbers in found.items():
        if numbers != wanted[name]:
            raise ModelError(
                f"{where} holds {numbers:,} numbers for {name}, where its settings speak of {wanted[name]:,}: "
                "name a repo or a folder with its safetensors."
            )
