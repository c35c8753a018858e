"""The bill of the evaluation: which moment is the fullest, and what it grows with."""

from itertools import pairwise

import pytest

from tests.memory.cases import QWEN_7B, SMOLLM2, recipe, source
from tunesmith.memory import catalogue
from tunesmith.memory.bill import Case, Layout, bill, evaluating
from tunesmith.memory.evaluation import Batch, Judged, evaluate_items, judged_on, moments
from tunesmith.memory.findings import Finding, Findings, Share
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.step import Step
from tunesmith.memory.training import total

QWEN, SMALL = ModelShape.from_config(QWEN_7B), ModelShape.from_config(SMOLLM2)
GEMMA = ModelShape.from_config(catalogue.lookup("google/gemma-2-2b") or {})


def step(method: str, targets: object = "all-linear") -> Step:
    adapter = {"rank": 16, "targets": targets} if method != "full" else {}
    return Step.model_validate(
        {
            "method": {"method": method, "max_steps": 1, **adapter}, "arithmetic": "amp", "micro_batch_size": 1,
            "gradient_checkpointing": True, "accumulates": False,
        }
    )  # fmt: skip


def size(shape: ModelShape, method: str, batch: Batch, device: str = "cuda") -> int:
    return total(evaluate_items(shape, judged_on(device, shape, step(method)), batch))


def fullest(shape: ModelShape, judged: Judged, batch: Batch) -> str:
    found = moments(shape, judged, batch)
    return max(found, key=lambda name: total(found[name]))


def test_short_rows_are_fullest_at_the_loss_and_long_ones_in_a_block() -> None:
    assert fullest(QWEN, Judged(2), Batch(1, 256, 128)) == "loss"
    assert fullest(QWEN, Judged(2), Batch(8, 4096, 128)) == "block"
    assert fullest(GEMMA, Judged(4), Batch(1, 256, 128)) == "head"


@pytest.mark.parametrize("shape", [QWEN, SMALL, GEMMA])
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_more_rows_longer_prompts_and_longer_answers_take_more(shape: ModelShape, method: str, device: str) -> None:
    for batches in (
        [Batch(rows, 512, 64) for rows in (1, 2, 4, 32)],
        [Batch(4, prompt, 64) for prompt in (64, 512, 4096)],
        [Batch(4, 512, answer) for answer in (1, 64, 1024)],
    ):
        sizes = [size(shape, method, batch, device) for batch in batches]
        assert all(less < more for less, more in pairwise(sizes))


def test_the_cache_is_twice_a_layers_keys_in_every_layer_and_column() -> None:
    items = evaluate_items(QWEN, (Judged(2),), Batch(3, 100, 28))
    assert items["KV cache (3 rows)"] == 2 * 28 * 512 * 2 * 3 * 128


def test_only_the_answers_logits_are_kept_and_one_rows_loss_is_taken() -> None:
    found = moments(QWEN, Judged(2), Batch(8, 1000, 31))["loss"]["logits and loss"]
    assert found == QWEN.vocab * (8 * 32 * 2 + 31 * 8)
    assert moments(QWEN, Judged(4), Batch(8, 1000, 31))["loss"]["logits and loss"] == QWEN.vocab * (8 * 32 + 31) * 4


def test_capping_makes_a_second_set_of_logits() -> None:
    plain = GEMMA.model_copy(update={"capped_logits": False})
    found = [moments(shape, Judged(2), Batch(2, 64, 15))["head"]["logits"] for shape in (plain, GEMMA)]
    assert found == [2 * 16 * GEMMA.vocab * 2, 2 * 16 * GEMMA.vocab * 4]


def test_a_cpu_adds_the_adapter_to_the_weights_and_a_gpu_keeps_it_beside_them() -> None:
    batch = Batch(4, 1024, 128)
    assert size(QWEN, "lora", batch, "cpu") == size(QWEN, "full", batch, "cpu")
    assert size(QWEN, "lora", batch) > size(QWEN, "full", batch) + 4 * 40_000_000
    assert "adapter" in evaluate_items(QWEN, judged_on("cuda", QWEN, step("lora")), batch)


def test_of_qlora_the_plain_base_is_fuller_until_the_batch_outweighs_it() -> None:
    """Four bits save 10 GiB of weights, and the adapter's float32 answers take 12 f bytes a token where 6 f are."""
    judged = judged_on("cuda", QWEN, step("qlora"))
    assert "weights (bf16)" in evaluate_items(QWEN, judged, Batch(8, 1024, 128))
    assert "weights (nf4)" in evaluate_items(QWEN, judged, Batch(64, 4096, 128))


def test_an_adapter_on_attention_alone_leaves_the_mlp_as_it_is() -> None:
    batch = Batch(8, 2048, 64)
    few, all_of_them = (
        evaluate_items(QWEN, judged_on("cuda", QWEN, step("lora", targets)), batch)
        for targets in (["q_proj", "v_proj"], "all-linear")
    )
    plain = evaluate_items(QWEN, (Judged(2),), batch)
    name = "one block's activations"
    assert few[name] == plain[name] < all_of_them[name]


def test_written_scores_grow_with_the_square_of_the_length() -> None:
    name = "one block's activations"
    short, long = (moments(GEMMA, Judged(2), Batch(1, length, 1))["block"][name] for length in (4095, 8191))
    assert 3.5 < long / short < 4.1
    fused = [moments(QWEN, Judged(2), Batch(1, length, 1))["block"][name] for length in (4095, 8191)]
    assert fused[1] / fused[0] == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("ratio", [0.7, 1.0, 1.4])
def test_of_an_unknown_architecture_the_simulated_figure_is_billed(ratio: float) -> None:
    """To the byte, and with what the allocator then reserves; the other phases stay."""
    case = Case(recipe({"method": "lora"}), source(QWEN_7B), QWEN)
    layout = Layout("cuda", step("lora"), 1, 8)
    size = int(total(evaluating(case, layout)) * ratio)
    finding = Finding(layout.step, Share(1, 1, 1), Share(total(evaluating(case, layout)), size, size * 21 // 20))
    plain, found = bill(case, layout), bill(case._replace(findings=Findings((finding,))), layout)
    judged = [item for item in found if item.phase == "evaluate" and item.place == "device"]
    assert sum(item.bytes for item in judged if item.kind == "allocated") == size
    assert sum(item.bytes for item in judged if item.kind == "slack") == size * 21 // 20 - size
    assert [item for item in found if item.phase in ("load", "serve")] == [
        item for item in plain if item.phase in ("load", "serve")
    ]
