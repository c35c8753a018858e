"""Makes a random two-layer Llama, or Qwen3-MoE, with a tokenizer trained on the spot.

`python tests/tiny_model.py OUT_DIR [--untied] [--experts]`

Runs in the `train` environment. The model knows nothing; it is there to be trained, merged and compared in seconds.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = [
    "system user assistant You are a helpful assistant.",
    "Please send two red lamps to Lyon. I would like three blue chairs delivered in Porto, thank you.",
    '{"item": "lamp", "colour": "red", "count": 2, "city": "Lyon"}',
    "What is the capital of France? The capital of France is Paris.",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 the quick brown fox jumps over the lazy dog.",
]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a ChatML template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXT * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=SPECIAL[0], eos_token=SPECIAL[2], chat_template=TEMPLATE
    )


def model(tied: bool, vocab_size: int) -> LlamaForCausalLM:
    """Random weights from a fixed seed, in bfloat16."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**_sizes(tied, vocab_size))).to(torch.bfloat16)


def mixture(tied: bool, vocab_size: int) -> Qwen3MoeForCausalLM:
    """The same with four experts in place of each MLP, two for a token."""
    torch.manual_seed(0)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "head_dim": 16}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**_sizes(tied, vocab_size), **experts)).to(torch.bfloat16)


def _sizes(tied: bool, vocab_size: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "tie_word_embeddings": tied, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--untied", action="store_true")
    parser.add_argument("--experts", action="store_true")
    parser.add_argument("--vocab", type=int, default=512)
    asked = parser.parse_args()
    tokens = tokenizer(asked.vocab)
    made = (mixture if asked.experts else model)(not asked.untied, asked.vocab)
    made.save_pretrained(asked.out)
    tokens.save_pretrained(asked.out)


if __name__ == "__main__":
    main()
