"""What an estimate may be asked about, and what it answers without a network, a GPU or a weight."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.loopback import loopback_hub
from tests.memory.cases import QWEN_7B, cpu
from tests.recipes import tiny_recipe
from tunesmith.errors import DoesNotFit, HubUnavailable, ModelError, RecipeError
from tunesmith.forecast import estimate
from tunesmith.memory.cards import find_card
from tunesmith.memory.constants import GIB
from tunesmith.question import Machine, pose

ONE_80 = Machine(gpus=1, memory_gib=80)
MODEL = "Qwen/Qwen2.5-7B-Instruct"


@pytest.fixture(autouse=True)
def neither_hub_nor_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("tunesmith.hardware.detect", cpu)


def asked(target: str | Path = MODEL, machine: Machine = ONE_80, **settings: Any) -> Any:
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    return estimate(pose(str(target), dotted, machine))


def folder(tmp_path: Path, content: Any) -> Path:
    (tmp_path / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return tmp_path


def test_a_model_by_name_needs_no_network() -> None:
    found = asked(train__method="qlora", train__rank=64)
    assert found.plan.step.method.rank == 64
    assert found.plan.summary.startswith("train: 7.62 B params, nf4")
    assert found.card is None


def test_a_model_is_the_same_as_a_folder_with_its_config(tmp_path: Path) -> None:
    by_name, by_folder = asked(), asked(folder(tmp_path, QWEN_7B))
    trained = [[item for item in found.plan.bill if item.phase == "train"] for found in (by_name, by_folder)]
    assert trained[0] == trained[1]


def test_everything_the_bill_depends_on_can_be_set() -> None:
    plan = asked(
        machine=Machine(gpus=1, memory_gib=1000), train__method="lora", train__rank=8, train__max_length=512,
        train__batch_size=8, train__micro_batch_size=4, train__gradient_checkpointing="on", train__attention="eager",
        train__optimizer="adamw_8bit", train__precision="bf16", train__adapter_precision="bf16", train__loss="chunked",
    ).plan  # fmt: skip
    step = plan.step
    assert (step.micro_batch_size, plan.accumulation_steps, step.gradient_checkpointing) == (4, 2, True)
    assert (step.attention, step.optimizer, step.arithmetic) == ("eager", "adamw_8bit", "bf16")
    assert (step.adapter_precision, step.loss, step.method.rank) == ("bf16", "chunked", 8)


def test_a_model_comes_from_the_recipes_sources(tmp_path: Path, hf_cache: Path) -> None:
    """Whichever of them can be reached, and no more of it than an estimate needs."""
    recipe = tiny_recipe(tmp_path)
    (tmp_path / "hub/acme").mkdir(parents=True)
    (tmp_path / "model").rename(tmp_path / "hub/acme/tiny")
    with loopback_hub(tmp_path / "hub") as hub:
        for sources in (["http://127.0.0.1:9", hub], [f"modelscope={hub}"], ["hub"]):
            model = {"repo": "acme/tiny", "sources": sources}
            found = pose(str(recipe), {"model": model}, Machine(gpus=1, memory_gib=80))
            assert found.source.config["hidden_size"] == 64 and found.source.repo == "acme/tiny"
            assert not list(hf_cache.rglob("tokenizer.json"))


def test_a_known_model_is_looked_up_when_none_of_its_sources_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    for sources in (["hf"], ["modelscope"], ["http://127.0.0.1:9", "modelscope=http://127.0.0.1:9"]):
        found = pose(MODEL, {"model.sources": sources}, ONE_80)
        assert found.source.commit == "0" * 40


def test_a_strategy_and_its_world_can_be_set() -> None:
    step = asked(
        train__method="full", machine=Machine(memory_gib=80), parallel__strategy="zero3", parallel__world_size=4
    ).plan.step
    assert (step.parallel.strategy, step.parallel.world_size, step.parallel.offload) == ("zero3", 4, "none")


def test_without_a_gpu_and_without_a_word_of_one_the_smallest_that_would_do_is_named() -> None:
    found = asked(machine=Machine(), train__method="qlora")
    assert found.card == "1 x 24 GiB (RTX 4090)"


def test_the_recipe_of_one_card_fits_it() -> None:
    assert asked("qwen7b", Machine(gpus=1, card="RTX4090")).plan.peak_bytes < 21.6 * GIB


@pytest.mark.parametrize(
    ("name", "gib"), [("A100-80G", 80), ("a100 80gb", 80), ("NVIDIA A100-40GB", 40), ("rtx 4090", 24), ("H200", 140)]
)
def test_a_card_is_known_however_it_is_spelt(name: str, gib: int) -> None:
    assert find_card(name).memory_bytes == gib * GIB


@pytest.mark.parametrize(
    ("machine", "settings", "sentence"),
    [
        (Machine(gpus=0), {}, "--gpus 0: at least one is needed"),
        (Machine(memory_gib=-1), {}, "--gpu-memory -1: it must be more than 0 GiB"),
        (Machine(card="RTX 4099"), {}, "no such card in the table; give --gpu-memory in GiB, or did you mean RTX 4090?"),
        (Machine(card="T4", memory_gib=16), {}, "say the same thing"),
        (Machine(gpus=3, memory_gib=80), {}, "train.batch_size 16 cannot be shared over 3 GPUs"),
        (ONE_80, {"train.micro_batch_size": 3}, "train.batch_size 16 is not a multiple of train.micro_batch_size 3"),
        (ONE_80, {"train.rnk": 3}, "train.rnk: unknown key; did you mean rank?"),
    ],
)  # fmt: skip
def test_a_question_that_makes_no_sense_is_told_so(machine: Machine, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError) as raised:
        estimate(pose(MODEL, settings, machine))
    assert sentence in raised.value.message


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is not valid JSON"),
        ("[]", "holds no JSON object"),
        ({"model_type": "llama"}, "lacks hidden_size"),
        ({**QWEN_7B, "hidden_size": -5}, "hidden_size -5: it must be a whole number"),
        ({**QWEN_7B, "num_hidden_layers": 10**9}, "num_hidden_layers 1000000000: it must be"),
    ],
)
def test_a_config_that_says_no_sizes_is_refused(tmp_path: Path, content: Any, sentence: str) -> None:
    with pytest.raises(ModelError) as raised:
        asked(folder(tmp_path, content))
    assert sentence in raised.value.message


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"There is no config\.json in "):
        asked(tmp_path)


def test_a_model_nobody_knows_is_asked_for_at_its_hub() -> None:
    with pytest.raises(HubUnavailable) as raised:
        asked("Qwen/Qwen2.5-7B-Instruckt")
    assert "did you mean Qwen/Qwen2.5-7B-Instruct?" in raised.value.message


def test_huge_jobs_get_an_answer() -> None:
    settings = {"train.method": "qlora", "train.max_length": 1_000_000}
    with pytest.raises(DoesNotFit) as raised:
        estimate(pose("meta-llama/Llama-3.1-405B", settings, ONE_80))
    assert raised.value.closest is not None
    assert raised.value.closest.peak_bytes > 100 * 80 * GIB


def test_solving_backwards_finds_the_edge() -> None:
    settings = {"train.method": "qlora", "train.batch_size": 1}
    solved = estimate(pose(MODEL, settings, Machine(gpus=1, memory_gib=24)), "max_length").solved
    assert solved is not None

    def fits(length: int) -> bool:
        try:
            estimate(pose(MODEL, {**settings, "train.max_length": length}, Machine(gpus=1, memory_gib=24)))
        except DoesNotFit:
            return False
        return True

    assert fits(solved.value)
    assert not fits(solved.value + 1)


def test_solving_for_gpus_finds_the_fewest() -> None:
    settings = {"train.method": "full", "parallel.strategy": "zero3", "parallel.offload": "none"}
    solved = estimate(pose(MODEL, settings, Machine(gpus=1, memory_gib=80)), "gpus").solved
    assert solved is not None
    assert 2 <= solved.value <= 4


def test_what_cannot_be_solved_for_is_said() -> None:
    with pytest.raises(RecipeError, match="choose from max_length, micro_batch_size, rank, gpus"):
        estimate(pose(MODEL, {}, ONE_80), "colour")
    with pytest.raises(RecipeError, match="full fine-tuning has no rank"):
        estimate(pose(MODEL, {"train.method": "full"}, ONE_80), "rank")


def test_solving_asks_for_the_hardware_and_shares_that_work_out() -> None:
    with pytest.raises(RecipeError, match="--solve needs to know the hardware"):
        estimate(pose(MODEL, {}, Machine()), "max_length")
    with pytest.raises(RecipeError, match="cannot be shared over 3 GPUs"):
        estimate(pose(MODEL, {}, Machine(gpus=3, memory_gib=80)), "max_length")


def test_packed_weights_are_not_sharded_by_deepspeed() -> None:
    with pytest.raises(RecipeError, match="choose fsdp, or lora"):
        asked(train__method="qlora", parallel__strategy="zero3")
