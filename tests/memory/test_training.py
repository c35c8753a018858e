"""The bill of a training step: against measured ones, and what must hold whatever the numbers are."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.memory.cases import QWEN_7B, SMOLLM2, recipe
from tunesmith.memory import catalogue
from tunesmith.memory.activations import Kept, block_bytes
from tunesmith.memory.constants import GIB
from tunesmith.memory.parallel import Parallel
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.step import Arithmetic, Step
from tunesmith.memory.training import (
    host_bytes,
    moments,
    nf4_bytes,
    standing_items,
    step_items,
    total,
    trained_params,
)

QWEN, SMALL = ModelShape.from_config(QWEN_7B), ModelShape.from_config(SMOLLM2)
LORA = {"method": "lora", "rank": 16, "max_length": 2048}
FULL = {"method": "full", "max_length": 2048}


def step(train: dict[str, Any], arithmetic: Arithmetic = "bf16", micro: int = 1, recompute: bool = False) -> Step:
    return Step(
        method=recipe(train).train,
        arithmetic=arithmetic,
        micro_batch_size=micro,
        gradient_checkpointing=recompute,
        accumulates=False,
    )


@pytest.mark.parametrize(
    ("asked", "simulated_gib"),
    [
        (step({**LORA, "max_length": 1024}, "amp", recompute=True), 16.582),
        (step(LORA), 35.266),
        (step({**FULL, "max_length": 1024}, "amp", recompute=True), 113.495),
        (step({**LORA, "method": "qlora", "max_length": 1024}, "amp", recompute=True), 10.801),
    ],
)
def test_qwen_7b_against_simulated_steps(asked: Step, simulated_gib: float) -> None:
    """Peaks of simulated steps of the trainer; benchmarks/bill_grid.py has many more."""
    assert total(step_items(QWEN, asked)) / GIB == pytest.approx(simulated_gib, rel=0.003)


TINY = {
    "hidden_size": 96,
    "intermediate_size": 224,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
}
TINY_AMP = {**TINY, "hidden_size": 128, "intermediate_size": 320, "num_attention_heads": 8}


@pytest.mark.parametrize(
    ("model_type", "method", "arithmetic", "padded", "kept"),
    [
        ("llama", "full", "fp32", False, 6944),
        ("llama", "full", "fp32", True, 7712),
        ("llama", "full", "bf16", False, 3872),
        ("llama", "lora", "fp32", False, 6400),
        ("llama", "lora", "fp32", True, 7168),
        ("llama", "lora", "bf16", False, 6080),
        ("llama", "lora", "bf16", True, 6464),
        ("qwen2", "lora", "fp32", True, 7168),
        ("qwen3", "full", "fp32", False, 8000),
        ("qwen3", "full", "bf16", False, 4672),
        ("qwen3", "lora", "bf16", True, 7008),
        ("mistral", "lora", "fp32", False, 6400),
        ("gemma", "full", "bf16", True, 4646),
        ("gemma", "lora", "fp32", True, 7174),
        ("gemma2", "full", "bf16", False, 9116),
        ("gemma2", "lora", "fp32", True, 10748),
        ("gemma3_text", "full", "bf16", False, 6869),
        ("gemma3_text", "lora", "bf16", True, 7797),
        ("phi3", "full", "fp32", True, 8096),
        ("phi3", "lora", "bf16", False, 4832),
    ],
)
def test_a_block_keeps_what_autograd_kept(
    model_type: str, method: str, arithmetic: Arithmetic, padded: bool, kept: int
) -> None:
    """Bytes per token and block that real blocks of these sizes saved for backward, rank 8, 2 rows of 64 tokens."""
    capped = {"attn_logit_softcapping": 50.0} if model_type == "gemma2" else {}
    shape = ModelShape.from_config({**TINY, **capped, "model_type": model_type})
    adapted = () if method == "full" else shape.linears
    how = Kept(
        shape.blocks[0], arithmetic, 2 if arithmetic != "fp32" else 4, nf4=False, frozen=method != "full", adapted=adapted, rank=8, dropout=False,
        length=64, masked=padded,
    )  # fmt: skip
    assert block_bytes(shape, how) == pytest.approx(kept, rel=0.04 if model_type == "phi3" else 0.003)


@pytest.mark.parametrize(
    ("method", "padded", "kept"),
    [("full", False, 6568), ("lora", False, 5912), ("qlora", False, 7576), ("qlora", True, 8088)],
)
def test_a_block_under_autocast(method: str, padded: bool, kept: int) -> None:
    shape = ModelShape.from_config({**TINY_AMP, "model_type": "llama"})
    adapted = () if method == "full" else shape.linears
    how = Kept(
        shape.blocks[0], "amp", 2, nf4=method == "qlora", frozen=method != "full", adapted=adapted, rank=8, dropout=False,
        length=64, masked=padded,
    )  # fmt: skip
    assert block_bytes(shape, how) == kept


def test_nf4_takes_4_127_bits() -> None:
    assert nf4_bytes(2**30) * 8 / 2**30 == pytest.approx(4.127, abs=1e-3)


def test_adapter_parameters_are_pefts() -> None:
    # What PEFT prints as trainable for r=8 on q_proj and v_proj of Llama-2-7B.
    llama = ModelShape.from_config(
        {**SMOLLM2, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
         "intermediate_size": 11008, "vocab_size": 32000, "tie_word_embeddings": False}
    )  # fmt: skip
    two = {"method": "lora", "rank": 8, "targets": ["q_proj", "v_proj"]}
    assert trained_params(llama, recipe(two).train) == 4_194_304


ARITHMETICS = st.sampled_from(["fp32", "amp", "bf16"])
METHODS = st.sampled_from(["lora", "qlora"])


@given(METHODS, ARITHMETICS, st.integers(1, 64), st.integers(8, 4096), st.integers(1, 16), st.booleans(), st.booleans())
def test_memory_never_falls_with_rank_length_or_micro_batch(
    method: str, arithmetic: Arithmetic, rank: int, length: int, micro: int, recompute: bool, dropout: bool
) -> None:
    asked = {"method": method, "rank": rank, "max_length": length, "dropout": 0.1 if dropout else 0.0}
    before = total(step_items(SMALL, step(asked, arithmetic, micro, recompute)))
    assert before < total(step_items(SMALL, step({**asked, "rank": 2 * rank}, arithmetic, micro, recompute)))
    assert before < total(step_items(SMALL, step({**asked, "max_length": length + 64}, arithmetic, micro, recompute)))
    assert before < total(step_items(SMALL, step(asked, arithmetic, 2 * micro, recompute)))


@given(METHODS, ARITHMETICS, st.integers(1, 8), st.integers(1, 200_000))
def test_memory_rises_with_the_vocabulary(method: str, arithmetic: Arithmetic, micro: int, vocab: int) -> None:
    small, large = (ModelShape.from_config({**SMOLLM2, "vocab_size": size}) for size in (vocab, vocab + 1000))
    asked = step({"method": method, "rank": 8}, arithmetic, micro)
    assert total(step_items(small, asked)) < total(step_items(large, asked))


@given(ARITHMETICS, st.integers(1, 8), st.integers(64, 4096))
def test_checkpointing_saves_memory(arithmetic: Arithmetic, micro: int, length: int) -> None:
    asked = {"method": "lora", "rank": 16, "max_length": length}
    kept, recomputed = (step_items(QWEN, step(asked, arithmetic, micro, recompute)) for recompute in (False, True))
    assert total(recomputed) < total(kept)


def test_only_whether_gradients_accumulate_counts() -> None:
    alone = step(FULL)
    accumulating = alone.model_copy(update={"accumulates": True})
    assert total(step_items(QWEN, accumulating)) > total(step_items(QWEN, alone))


@pytest.mark.parametrize(("strategy", "shares"), [("ddp", 1), ("zero2", 8), ("fsdp", 8)])
def test_foreach_makes_temporaries_of_what_this_gpu_updates(strategy: str, shares: int) -> None:
    alone = step(FULL).model_copy(update={"optimizer": "adamw_foreach"})
    spread = alone.model_copy(update={"parallel": Parallel(strategy=strategy, world_size=8)})
    size = moments(QWEN, alone)["optimizer"]["optimizer's temporaries"]
    assert moments(QWEN, spread)["optimizer"]["optimizer's temporaries"] == -(-size // shares)


def test_blocks_are_gathered_only_while_they_run() -> None:
    found = moments(QWEN, step(FULL).model_copy(update={"parallel": Parallel(strategy="fsdp", world_size=8)}))
    gathered = {name: items["gathered weights (FSDP2)"] for name, items in found.items()}
    assert gathered["first block"] - gathered["loss"] == 2 * 2 * QWEN.layer_params
    assert gathered["loss"] == 2 * (QWEN.embedding_params + QWEN.head_params)


def test_adapters_of_the_bases_own_precision_copy_no_inputs() -> None:
    wide, same = (step(LORA).model_copy(update={"adapter_precision": precision}) for precision in ("fp32", "bf16"))
    saved = [moments(QWEN, one)["loss"]["activations"] for one in (wide, same)]
    assert saved[0] - saved[1] > 4 * GIB


def test_capped_logits_are_kept_beside_the_loss() -> None:
    """Gemma-2-2B, simulated: 2 bytes per token and vocabulary entry more than without the cap."""
    shape = ModelShape.from_config(catalogue.lookup("google/gemma-2-2b") or {})
    asked = step({**LORA, "max_length": 1024}, "amp", recompute=True).model_copy(update={"attention": "eager"})
    assert total(step_items(shape, asked)) / GIB == pytest.approx(8.648, rel=0.003)


@pytest.mark.parametrize(
    ("arithmetic", "micro", "length", "attention", "accumulates", "simulated_gib"),
    [("amp", 2, 1024, "flash", True, 26.674), ("bf16", 8, 256, "sdpa", False, 11.929)],
)
def test_a_loss_in_pieces_adds_up_the_heads_gradient(
    arithmetic: Arithmetic, micro: int, length: int, attention: str, accumulates: bool, simulated_gib: float
) -> None:
    """Llama-3.2-1B, simulated: a tied head of 128,256 tokens, whose gradient there is three times over."""
    shape = ModelShape.from_config(catalogue.lookup("meta-llama/Llama-3.2-1B") or {})
    how = {"attention": attention, "accumulates": accumulates, "loss": "chunked"}
    asked = step({**FULL, "max_length": length}, arithmetic, micro).model_copy(update=how)
    assert total(step_items(shape, asked)) / GIB == pytest.approx(simulated_gib, rel=0.003)


def test_paged_states_leave_the_device_but_for_their_maxima() -> None:
    """bitsandbytes pages the embedding's float32 states too: Llama-3.2-1B keeps 29.5 MiB in a simulated step."""
    shape = ModelShape.from_config(catalogue.lookup("meta-llama/Llama-3.2-1B") or {})
    paged = step(FULL).model_copy(update={"optimizer": "paged_adamw_8bit"})
    kept = standing_items(shape, paged)["optimizer states (paged_adamw_8bit)"]
    assert kept / 2**20 == pytest.approx(29.5, rel=0.02)
    plain = standing_items(shape, step(FULL).model_copy(update={"optimizer": "adamw_8bit"}))
    assert host_bytes(shape, paged) == plain["optimizer states (adamw_8bit)"] - kept
