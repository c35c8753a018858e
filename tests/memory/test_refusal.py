"""What is said when nothing fits: what was tried, its numbers, and ways out that hold when they are taken."""

import re
from typing import Any

import pytest

from tests.memory.cases import QWEN_7B, SMOLLM2, cpu, gpu, recipe, source
from tunesmith.artifacts import Hardware, ModelSource
from tunesmith.errors import DoesNotFit
from tunesmith.memory import catalogue
from tunesmith.memory.bill import peaks
from tunesmith.memory.changes import changes
from tunesmith.memory.constants import GIB
from tunesmith.memory.plan import launchable, make_case, make_plan
from tunesmith.memory.search import excess, first_fit, ways
from tunesmith.memory.shipped import shipped_source
from tunesmith.memory.smaller import smaller_model
from tunesmith.specs.recipe import Recipe

QWEN, SMALL = source(QWEN_7B), source(SMOLLM2, "HuggingFaceTB/SmolLM2-135M-Instruct", 0.25)
PLAIN = {"method": "none"}


def refused(asked: Recipe, model: ModelSource = QWEN, hardware: Hardware | None = None) -> DoesNotFit:
    with pytest.raises(DoesNotFit) as raised:
        make_plan(launchable(asked), model, hardware or gpu(24))
    message = raised.value.message
    assert message.endswith(".")
    assert ". " not in message.replace("). ", "")
    assert "\n" not in message
    return raised.value


def test_a_machine_without_a_gpu_is_told_which_card_would_do() -> None:
    found = refused(recipe(hardware={"device": "cuda"}), hardware=cpu())
    assert found.message.startswith(
        "Qwen/Qwen2.5-7B-Instruct with qlora r=64 needs a CUDA GPU and this machine has none: "
        "nearest plan that fits: 1 x 24 GiB (RTX 4090), micro-batch "
    )
    assert found.message.endswith(" of 21.6 GiB.")
    assert found.plan is not None
    assert found.bill == found.plan.bill


def test_a_machine_with_fewer_gpus_is_told_what_they_would_do() -> None:
    found = refused(recipe(hardware={"gpus": 4}), hardware=gpu(40, 2))
    assert " asks for 4 GPUs and this machine has 2: nearest plan that fits: hardware.gpus 2 on this" in found.message
    assert make_plan(launchable(recipe(hardware={"gpus": 2})), QWEN, gpu(40, 2)).step == found.plan.step  # type: ignore[union-attr]


def test_a_refusal_names_the_phase_its_numbers_and_both_ways_out() -> None:
    asked = recipe({"method": "lora", "max_length": 16384}, hardware={"device": "cuda"})
    found = refused(asked)
    said = re.fullmatch(
        r"Qwen/Qwen2\.5-7B-Instruct with lora r=64 does not fit: \w+ needs ([\d.]+) GiB and may use 21\.6 \(10% stay free\): "
        r"nearest plan that fits: train\.max_length (\d+) on this machine, micro-batch (\d+) x (\d+).*, "
        r"or 1 x \d+ GiB \(.*\), micro-batch .* GiB\.",
        found.message,
    )
    assert said is not None, found.message
    needed, length, micro, steps = (float(number) for number in said.groups())
    assert needed > 21.6 and micro * steps == 16
    plan = make_plan(recipe({"method": "lora", "max_length": int(length)}), QWEN, gpu(24))
    assert found.plan is not None
    assert (plan.step.micro_batch_size, plan.peak_bytes) == (micro, found.plan.peak_bytes)
    assert max(peaks(found.bill).values()) == pytest.approx(needed * GIB, abs=0.05 * GIB)


def test_a_method_left_open_is_refused_with_both_that_were_tried() -> None:
    found = refused(recipe({"method": "auto", "rank": 1024}, PLAIN))
    assert found.message.startswith(
        "Qwen/Qwen2.5-7B-Instruct with lora r=1024, and then with qlora, does not fit: train "
    )
    needs = found.message.partition("train needs ")[2]
    qlora, _, lora = needs.partition(" GiB with qlora, ")
    assert float(qlora) < float(lora.partition(" with lora, and may use 21.6 ")[0])
    assert "train.method qlora" not in found.message
    assert ", lora, micro-batch " in found.message


@pytest.mark.parametrize("method", ["auto", "qlora", "lora", "full"])
@pytest.mark.parametrize(("length", "gib"), [(2048, 10.0), (65536, 24.0), (4096, 30.0)])
def test_nothing_is_proposed_that_the_recipe_has(method: str, length: int, gib: float) -> None:
    """Every change there is changes something, and says the method at most where another one was not tried."""
    asked = launchable(recipe({"method": method, "max_length": length}, PLAIN))
    case, hardware = make_case(asked, QWEN), gpu(gib)
    over = next(found for way in ways(case, hardware) if (found := excess(way.items, case, hardware)))
    proposed = list(changes(case, hardware, over))
    assert all(change.recipe != asked for change in proposed)
    methods = {change.words.split()[1] for change in proposed if change.words.startswith("train.method")}
    assert methods == {"full": {"lora", "qlora"}, "lora": {"qlora"}}.get(method, set())
    assert all(change.recipe.train.max_length < length for change in proposed if "max_length" in change.words)


def test_full_fine_tuning_is_told_of_lora_before_qlora() -> None:
    found = refused(recipe({"method": "full"}), hardware=gpu(48))
    assert "nearest plan that fits: train.method lora on this machine, " in found.message
    fits = make_plan(recipe({"method": "lora", "rank": 16}), QWEN, gpu(48))
    assert found.plan is not None
    assert fits.step == found.plan.step


def test_what_the_recipe_pins_is_left_out_before_rows_are_cut() -> None:
    pinned = {"method": "lora", "max_length": 2048, "micro_batch_size": 16, "gradient_checkpointing": "off"}
    one = refused(recipe({**pinned, "micro_batch_size": 1}), hardware=gpu(30))
    assert "nearest plan that fits: train.gradient_checkpointing left out on this machine, " in one.message
    both = refused(recipe(pinned))
    assert "train.gradient_checkpointing and train.micro_batch_size left out on this machine, " in both.message
    assert both.plan is not None
    assert both.plan.gradient_checkpointing and both.plan.micro_batch_size < 16


def test_a_smaller_model_is_named_where_no_change_helps_here() -> None:
    found = refused(recipe({"method": "qlora", "rank": 16}, PLAIN), hardware=gpu(8))
    name = found.message.partition("nearest plan that fits: ")[2].partition(" on this machine, ")[0]
    assert name in ("Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct")
    smaller = shipped_source(name)
    assert smaller is not None and found.plan is not None
    plan = make_plan(launchable(recipe({"method": "qlora", "rank": 16}, PLAIN)), smaller, gpu(8))
    assert (plan.step, plan.bill) == (found.plan.step, found.plan.bill)
    assert f"{plan.peak_bytes / GIB:.1f} of 7.2 GiB" in found.message


@pytest.mark.parametrize(
    ("repo", "gib", "sibling"),
    [
        ("Qwen/Qwen2.5-72B-Instruct", 1000, "Qwen/Qwen2.5-32B-Instruct"),
        ("Qwen/Qwen2.5-72B", 1000, "Qwen/Qwen2.5-32B"),
        ("meta-llama/Llama-3.3-70B-Instruct", 1000, "meta-llama/Llama-3.1-8B-Instruct"),
        ("google/gemma-2-27b-it", 1000, "google/gemma-2-9b-it"),
        ("mistralai/Mistral-7B-Instruct-v0.3", 1000, None),
        ("Qwen/Qwen2.5-0.5B-Instruct", 1000, None),
        ("Qwen/Qwen2.5-72B-Instruct", 1, None),
    ],
)
def test_the_family_is_told_from_the_name(repo: str, gib: float, sibling: str | None) -> None:
    model = shipped_source(repo)
    assert model is not None
    found = smaller_model(make_case(recipe({"rank": 16}, PLAIN), model), gpu(gib, ram_gib=1000))
    assert (found[0] if found else None) == sibling


def test_a_folder_is_told_of_models_of_its_architecture() -> None:
    deep = source({**QWEN_7B, "num_hidden_layers": 60}, "local/mine-instruct")
    found = smaller_model(make_case(recipe({"rank": 16}, PLAIN), deep), gpu(200, ram_gib=1000))
    assert found is not None
    assert found[0].startswith("Qwen/Qwen2.5-")


def test_a_smaller_model_must_suit_the_recipe() -> None:
    """Groups of 128 do not divide the widths of the two smallest ones."""
    asked = recipe({"rank": 16}, {"method": "gptq", "group_size": 128})
    model = shipped_source("HuggingFaceTB/SmolLM2-1.7B-Instruct")
    assert model is not None
    assert smaller_model(make_case(asked, model), gpu(80)) != "HuggingFaceTB/SmolLM2-360M-Instruct"
    plain = smaller_model(make_case(recipe({"rank": 16}, PLAIN), model), gpu(80))
    assert plain is not None and plain[0] == "HuggingFaceTB/SmolLM2-360M-Instruct"


def test_what_no_card_holds_is_said_so() -> None:
    huge = {**QWEN_7B, "num_hidden_layers": 2000, "model_type": "newcomer"}
    found = refused(recipe(), source(huge))
    assert found.message.endswith("no single GPU would do, so choose a smaller model or shorter rows.")


def test_a_larger_card_is_larger_than_the_one_there_is() -> None:
    for gib in (12, 16, 24, 40, 80):
        found = refused(recipe({"method": "full"}), hardware=gpu(gib, ram_gib=10))
        assert f"1 x {gib} GiB" not in found.message


def test_host_memory_counts_beside_a_gpu_and_is_what_is_asked_for() -> None:
    found = refused(recipe(), hardware=gpu(24, ram_gib=8))
    assert "(host memory) needs 14.8 GiB and may use 7.2 " in found.message
    assert ", or 17 GiB of host memory, micro-batch " in found.message
    assert "RTX" not in found.message
    make_plan(recipe(), QWEN, gpu(24, ram_gib=17))


def test_a_recipe_for_a_cpu_is_told_of_memory_and_not_of_cards() -> None:
    found = refused(recipe(hardware={"device": "cpu", "memory_gib": 8}), hardware=cpu())
    said = found.message.partition(" GiB of host memory (hardware.memory_gib), ")[0].split()[-1]
    assert "RTX" not in found.message
    enough = recipe(hardware={"device": "cpu", "memory_gib": int(said)})
    make_plan(launchable(enough), QWEN, cpu(float(said)))


def served(**serve: Any) -> Recipe:
    asked = recipe({"rank": 16}, PLAIN)
    return asked.model_copy(update={"serve": asked.serve.model_copy(update=serve)})


def test_a_server_without_room_is_told_the_longest_sequence_it_has_room_for() -> None:
    found = refused(served(max_model_len=131072))
    assert "does not fit: serve needs " in found.message
    assert " GiB of weights and KV cache for one sequence of 131072 tokens and may use 21.6 (10% stay" in found.message
    tokens = int(found.message.partition(", room for ")[2].partition(":")[0])
    assert f"nearest plan that fits: serve.max_model_len {tokens} on this machine" in found.message
    case = make_case(served(max_model_len=tokens), QWEN)
    assert first_fit(case, gpu(24)) is not None
    assert first_fit(make_case(served(max_model_len=tokens + 16), QWEN), gpu(24)) is None


def test_a_server_with_too_small_a_share_is_told_so() -> None:
    found = refused(served(engine_args={"gpu_memory_utilization": 0.3}), hardware=gpu(48))
    assert "and may use 14.4 (gpu-memory-utilization 0.3), room for none: nearest plan" in found.message
    assert "fits: serve.engine_args without gpu-memory-utilization on this machine" in found.message


def test_weights_too_wide_for_the_server_are_packed() -> None:
    small_share = served(engine_args={"gpu-memory-utilization": 0.92}, max_model_len=1024)
    case, hardware = make_case(small_share, QWEN), gpu(16)
    over = next(found for way in ways(case, hardware) if (found := excess(way.items, case, hardware)))
    words = [change.words for change in changes(case, hardware, over._replace(phase="serve"))]
    assert "quantize.method gptq with group_size 128" in words


def test_a_cache_on_a_cpu_is_told_what_it_holds() -> None:
    found = refused(served(max_model_len=20_000), hardware=cpu(200))
    assert (
        "serve needs 1.1 GiB of KV cache for one sequence of 20000 tokens and may use 1.0 (serve.kv_cache_gib), "
        "room for 18720: nearest plan that fits: serve.max_model_len 18720 on this machine"
    ) in found.message


def test_every_known_model_has_a_shape_to_propose() -> None:
    assert all(shipped_source(repo) for repo in catalogue.known())
