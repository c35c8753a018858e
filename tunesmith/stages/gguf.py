"""A GGUF file made into the folder the other stages read: 16-bit safetensors, tokenizer, chat template.

    .envs/train/bin/python -m tunesmith.stages.gguf MODEL.gguf OUT_DIR

What quantization took away stays away: the weights are what the GGUF holds, written out in bf16. A recipe names such a
file in `model.gguf`; there the convert stage does the same.
"""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GgufConfig, PreTrainedConfig, PreTrainedModel

from tunesmith.errors import ModelError
from tunesmith.foreign import translate
from tunesmith.hub.gguf_head import MOST_BYTES, Head, Unusable, read_head
from tunesmith.stages.gguf_config import follow_factors, read_config
from tunesmith.stages.gguf_tokens import check_reloaded, check_tokens, load_tokenizer
from tunesmith.stages.gguf_weights import FACTORS, check_packing, check_weights

_READABLE = 0o644


def import_gguf(file: Path, out: Path) -> Path:
    """The folder `out` with the model of `file`, made whole or not at all; one that exists is returned as it is.

    The same file gives the same bytes every time. Raises what `write_model` raises.
    """
    if (out / "config.json").exists():
        return out
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    beside.mkdir(parents=True)
    try:
        write_model(file, beside)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return out


def write_model(file: Path, folder: Path) -> int:
    """Fills the empty `folder` with the model of `file`; returns how many tensors it has.

    Raises ModelError when it is no GGUF that transformers reads rightly, NoChatTemplate when it has no chat template.
    """
    head = head_of(file)
    check_tokens(head, file.name)
    check_packing(head, file.name, file.stat().st_size)
    config = read_config(file, head, file.name)
    check_weights(config, head, file.name)
    for tensor in (tensor for tensor in head.tensors if tensor.name == FACTORS):
        values = np.fromfile(file, np.float32, tensor.numbers, offset=head.size + tensor.offset)
        follow_factors(config, torch.from_numpy(values), file.name)
    tokenizer = load_tokenizer(file, head)
    if len(tokenizer) > config.vocab_size:
        raise ModelError(
            f"{file.name} names {len(tokenizer):,} tokens and has rows for {config.vocab_size:,}: name another file."
        )
    model = _model(file, config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    check_reloaded(tokenizer, folder, file.name)
    for path in folder.iterdir():
        path.chmod(_READABLE)
    return len(model.state_dict())


def head_of(file: Path) -> Head:
    """What stands before the weights. Raises ModelError when there is no such file, or it is no GGUF."""
    if not file.is_file():
        raise ModelError(f"There is no file {file}: check the path of the GGUF.")
    with file.open("rb") as start:
        content = start.read(MOST_BYTES)
    try:
        return read_head(content, file.stat().st_size)
    except Unusable as error:
        raise ModelError(f"{file.name} is no GGUF that can be read ({error}): fetch it again.") from error


def _model(file: Path, config: PreTrainedConfig) -> PreTrainedModel:
    """The model in bf16, without the marks of its quantization, which `save_pretrained` would refuse."""
    try:
        model, said = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            config=config,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            output_loading_info=True,
        )
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        unreadable = ModelError(f"{file.name} holds a model transformers cannot read from GGUF ({error}).")
        raise translate(error) or unreadable from error
    if missing := sorted(said["missing_keys"]):
        raise ModelError(f"{file.name} lacks {missing[0]} ({len(missing)} missing): name another file.")
    for holder, name in (
        (model, "hf_quantizer"),
        (model, "quantization_method"),
        (model.config, "quantization_config"),
    ):
        if hasattr(holder, name):
            delattr(holder, name)
    return model


def main() -> int:
    """0 when the folder is there; otherwise the error's exit code, with one sentence on stderr."""
    if len(sys.argv) != 3:
        print("usage: python -m tunesmith.stages.gguf MODEL.gguf OUT_DIR", file=sys.stderr)
        return 2
    try:
        print(import_gguf(Path(sys.argv[1]), Path(sys.argv[2])))
    except Exception as error:
        ours = translate(error)
        if ours is None:
            raise
        print(f"error: {ours.message}", file=sys.stderr)
        return ours.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
