"""What follows the training, refused at plan time: a base that cannot be merged, and what the server cannot load."""

import json
from typing import Any

import pytest

from tests.memory.cases import QWEN_7B, SMOLLM2, cpu, gpu, recipe, source
from tests.rooms import in_environment
from tunesmith.artifacts import Device, Hardware
from tunesmith.errors import DoesNotFit, GroupSizeError, ModelError, RecipeError
from tunesmith.memory import catalogue
from tunesmith.memory.base import unpacked_name
from tunesmith.memory.constants import GIB
from tunesmith.memory.groups import check_group_size
from tunesmith.memory.loadable import check_loadable
from tunesmith.memory.plan import make_plan
from tunesmith.memory.shape import ModelShape
from tunesmith.specs.quantize import Gptq
from tunesmith.specs.recipe import Recipe

SMALL = source(SMOLLM2, "HuggingFaceTB/SmolLM2-135M-Instruct", 0.25)
QWEN = source(QWEN_7B)
GPTQ = {"quant_method": "gptq", "bits": 4}


@pytest.mark.parametrize("method", ["lora", "qlora", "full", "auto"])
def test_a_packed_base_is_refused_with_the_repo_it_was_made_from(method: str) -> None:
    packed = source({**QWEN_7B, "quantization_config": GPTQ}, "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4")
    with pytest.raises(ModelError) as raised:
        make_plan(recipe({"method": method}), packed, gpu(80))
    assert raised.value.message == (
        "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4 is quantized already (gptq), so it can neither be trained nor take an "
        "adapter in: start from the 16-bit weights, by its name those of Qwen/Qwen2.5-7B-Instruct; qlora packs them "
        "itself."
    )


@pytest.mark.parametrize(
    "config",
    [
        {**QWEN_7B, "quantization": {"bits": 4, "group_size": 64}},
        {**QWEN_7B, "compression_config": {"quant_method": "compressed-tensors"}},
        {"model_type": "newcomer", "text_config": {**QWEN_7B, "quantization_config": {"quant_method": "fp8"}}},
    ],
)
def test_a_packed_base_is_known_however_its_file_says_so(config: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"local/packed is quantized already \(.*start from the 16-bit weights; qlora"):
        make_plan(recipe(), source(config, "local/packed"), gpu(80))


@pytest.mark.parametrize(
    ("packed", "original"),
    [
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B-Instruct"),
        ("unsloth/Qwen2.5-7B-Instruct-bnb-4bit", "Qwen/Qwen2.5-7B-Instruct"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", "meta-llama/Meta-Llama-3.1-8B-Instruct"),
        ("someone/Newcomer-3B-FP8-dynamic", "someone/Newcomer-3B"),
        ("Qwen/Qwen2.5-7B-Instruct", None),
        ("local/newcomer-gptq", None),
    ],
)
def test_the_original_is_told_from_the_name(packed: str, original: str | None) -> None:
    assert unpacked_name(packed) == original


def quantized(**spec: Any) -> Recipe:
    return recipe({"rank": 16}, {"method": "gptq", "group_size": 64, **spec})


@pytest.mark.parametrize(
    ("asked", "hardware", "sentence"),
    [
        (quantized(desc_act=True), cpu(), "quantize.desc_act: vLLM no longer loads columns in the order"),
        (quantized(desc_act=True), gpu(80), "quantize.desc_act: vLLM no longer loads columns in the order"),
        (quantized(bits=8), cpu(), "quantize.bits 8: vLLM on a CPU loads GPTQ in 4 bits only: set quantize.bits to 4"),
    ],
)
def test_what_vllm_does_not_load_is_refused(asked: Recipe, hardware: Hardware, sentence: str) -> None:
    with pytest.raises(RecipeError) as raised:
        make_plan(asked, SMALL, hardware)
    assert raised.value.message.startswith(sentence)


def test_what_vllm_does_load_is_planned() -> None:
    assert make_plan(quantized(bits=8), SMALL, gpu(80)).device == "cuda"
    assert make_plan(quantized(bits=4), SMALL, cpu()).device == "cpu"
    assert make_plan(recipe(quantize={"method": "none"}), SMALL, cpu()).device == "cpu"


def test_an_old_card_has_no_kernels_for_it() -> None:
    card = Device(name="Tesla V100-SXM2-32GB", memory_bytes=32 * GIB)
    machine = gpu(32).model_copy(update={"devices": (card,)})
    with pytest.raises(RecipeError, match=r"vLLM has no GPTQ kernels for a Tesla V100.*set quantize\.method to none"):
        make_plan(quantized(), SMALL, machine)
    assert make_plan(recipe(quantize={"method": "none"}), SMALL, machine).device == "cuda"


def test_widths_that_a_cpu_does_not_load_are_named() -> None:
    narrow = {**SMOLLM2, "head_dim": 64, "num_attention_heads": 1, "num_key_value_heads": 1, "hidden_size": 64}
    check_loadable(quantized(), ModelShape.from_config({**narrow, "head_dim": 32}), "cpu", cpu().devices[0])
    odd = ModelShape.from_config({**narrow, "head_dim": 24})
    with pytest.raises(RecipeError, match=r"a multiple of 32, and this model has 72: set quantize\.method to none"):
        check_loadable(quantized(), odd, "cpu", cpu().devices[0])


def test_groups_are_not_torn_between_the_parts_of_a_server() -> None:
    shape = ModelShape.from_config(QWEN_7B)
    for parts, torn in ((2, False), (4, False), (8, True)):
        asked = quantized(group_size=128)
        serve = asked.serve.model_copy(update={"engine_args": {"tensor-parallel-size": parts}})
        asked = asked.model_copy(update={"serve": serve})
        if not torn:
            check_loadable(asked, shape, "cuda", gpu(80).devices[0])
            continue
        with pytest.raises(RecipeError, match="tensor-parallel-size 8 would split o_proj and down_proj within a group"):
            check_loadable(asked, shape, "cuda", gpu(80).devices[0])


def test_a_group_must_divide_the_experts_too() -> None:
    mixture = {**(catalogue.lookup("Qwen/Qwen3-30B-A3B") or {}), "moe_intermediate_size": 800}
    with pytest.raises(
        GroupSizeError, match=r"does not divide the input width of experts' down_proj \(800\): choose 32"
    ):
        check_group_size(Gptq(group_size=128), ModelShape.from_config(mixture))


def serving(quantize: dict[str, Any] | None = None, **serve: Any) -> Recipe:
    asked = recipe({"rank": 16}, quantize or {"method": "none"})
    return asked.model_copy(update={"serve": asked.serve.model_copy(update=serve)})


def test_a_server_must_hold_one_sequence_in_its_own_share() -> None:
    assert make_plan(serving(engine_args={"gpu-memory-utilization": 0.5}), QWEN, gpu(48)).max_sequences >= 1
    with pytest.raises(DoesNotFit, match=r"serve needs 16\.4 GiB .* and may use 14\.4"):
        make_plan(serving(engine_args={"gpu-memory-utilization": 0.3}), QWEN, gpu(48))


def test_a_server_on_a_cpu_must_hold_one_sequence_in_its_cache() -> None:
    assert make_plan(serving(max_model_len=18_000), QWEN, cpu(200)).kv_tokens >= 18_000
    with pytest.raises(DoesNotFit, match=r"serve needs 1\.1 GiB of KV cache for one sequence of 20000 tokens"):
        make_plan(serving(max_model_len=20_000), QWEN, cpu(200))


VLLMS_WORD = """
import json, sys
from types import SimpleNamespace
from vllm.model_executor.kernels.linear import MPLinearLayerConfig
from vllm.model_executor.kernels.linear.mixed_precision import cpu, marlin
from vllm.model_executor.layers.quantization.auto_gptq import AutoGPTQConfig, AutoGPTQLinearMethod
from vllm.model_executor.layers.quantization.utils import marlin_utils
import torch

gpu = SimpleNamespace(
    is_cpu=lambda: False, is_xpu=lambda: False, is_rocm=lambda: False, is_cuda=lambda: True,
    get_device_capability=lambda: SimpleNamespace(to_int=lambda: 80),
)
here = marlin_utils.current_platform

def loads(device, bits, group, desc_act, width_in, width_out, parts):
    marlin_utils.current_platform = marlin.current_platform = gpu if device == "cuda" else here
    kernel = marlin.MarlinLinearKernel if device == "cuda" else cpu.CPUWNA16LinearKernel
    said = {"bits": bits, "group_size": group, "desc_act": desc_act, "sym": True}
    try:
        method = AutoGPTQLinearMethod(AutoGPTQConfig.from_config(said))
    except ValueError:
        return False
    layer = MPLinearLayerConfig(
        full_weight_shape=(width_in, width_out), partition_weight_shape=(width_in // parts, width_out),
        weight_type=method.quant_type, act_type=torch.bfloat16, group_size=group, zero_points=False,
    )
    return kernel.can_implement(layer)[0]

print(json.dumps([loads(*case) for case in json.loads(sys.argv[1])]))
"""


def loads(device: Any, bits: int, group: int, desc_act: bool, width: int, parts: int) -> bool:
    """Our word on a model whose every layer is `width` wide."""
    config = {**SMOLLM2, "hidden_size": width, "intermediate_size": width, "num_attention_heads": 1, "head_dim": width}
    asked = quantized(bits=bits, group_size=group, desc_act=desc_act)
    serve = asked.serve.model_copy(update={"engine_args": {"tensor_parallel_size": parts}})
    asked = asked.model_copy(update={"serve": serve, "hardware": asked.hardware.model_copy(update={"device": device})})
    shape = source({**config, "num_key_value_heads": 1})
    try:
        make_plan(asked, shape, gpu(4000, ram_gib=4000))
    except (RecipeError, GroupSizeError):
        return False
    return True


@pytest.mark.env("serve")
def test_vllm_itself_says_the_same() -> None:
    cases = [
        (device, bits, group, desc_act, width, parts)
        for device in ("cpu", "cuda")
        for bits in (4, 8)
        for group in (16, 32, 64, 128, 256)
        for desc_act in (False, True)
        for width in (256, 768)
        for parts in ((1,) if device == "cpu" else (1, 4))
    ]
    asked = [[*case[:4], case[4], case[4], case[5]] for case in cases]
    theirs = in_environment("serve", VLLMS_WORD, json.dumps(asked))
    ours = [loads(*case) for case in cases]
    assert [(case, own, other) for case, own, other in zip(cases, ours, theirs, strict=True) if own != other] == []
    assert {True, False} == set(ours)
