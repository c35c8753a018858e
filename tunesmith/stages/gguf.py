"""A GGUF file made into the folder the other stages read: 16-bit safetensors, tokenizer, chat template.

    .envs/train/bin/python -m tunesmith.stages.gguf MODEL.gguf OUT_DIR

What quantization took away stays away: the weights are what the GGUF holds, written out in bf16.
"""

import os
import shutil
import sys
from pathlib import Path

import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.errors import ModelError, NoChatTemplate
from tunesmith.foreign import translate

_MAGIC = b"GGUF"
_PRE_TOKENIZERS = {
    # SmolLM was trained on single digits; transformers leaves that out when it reads a GGUF.
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
}
"""By `tokenizer.ggml.pre`, as llama.cpp names them."""


def import_gguf(file: Path, out: Path) -> Path:
    """The folder `out` with the model of `file`, made whole or not at all; one that exists is returned as it is.

    The same file gives the same bytes every time. Raises ModelError when it is no GGUF that transformers can read,
    NoChatTemplate when it carries no chat template.
    """
    if (out / "config.json").exists():
        return out
    _check(file)
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    beside.mkdir(parents=True)
    try:
        _write(file, beside)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return out


def _check(file: Path) -> None:
    if not file.is_file():
        raise ModelError(f"There is no file {file}: check the path of the GGUF.")
    with file.open("rb") as start:
        if start.read(4) != _MAGIC:
            raise ModelError(f"{file} is not a GGUF file: its first bytes are not GGUF.")


def _write(file: Path, folder: Path) -> None:
    tokenizer = _tokenizer(file)
    try:
        model = _model(file)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(f"{file.name} holds a model transformers cannot read from GGUF ({error}).") from error
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


def _tokenizer(file: Path) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if not tokenizer.chat_template:
        raise NoChatTemplate(f"{file.name} carries no chat template: take the instruction-tuned version of the model.")
    kind = GGUFReader(file).get_field("tokenizer.ggml.pre")
    if kind and (make := _PRE_TOKENIZERS.get(kind.contents())):
        tokenizer.backend_tokenizer.pre_tokenizer = make()
    return tokenizer


def _model(file: Path) -> PreTrainedModel:
    """The model in bf16, without the marks of its quantization, which `save_pretrained` would refuse."""
    dequantized = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=dequantized, dtype=torch.bfloat16
    )
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
