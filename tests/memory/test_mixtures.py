"""Mixtures of experts and latent attention: the bill of a training step beside its simulation, and what is adapted."""

import json
from typing import Any

import pytest

from tests.memory.cases import recipe
from tests.rooms import in_environment
from tunesmith.memory.confirm import TOLERANCE
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.step import Step
from tunesmith.memory.training import step_items, total, trained_params

pytestmark = pytest.mark.env

COMMON: dict[str, Any] = {
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 4096,
    "intermediate_size": 1408,
}
EXPERTS = {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 256}
LATENT = {
    "n_routed_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 256, "first_k_dense_replace": 2,
    "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "q_lora_rank": 192, "kv_lora_rank": 128,
    "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64, "num_key_value_heads": 8, "head_dim": 32,
}  # fmt: skip
CONFIGS = {
    "qwen3_moe": COMMON | EXPERTS,
    "qwen2_moe": COMMON | EXPERTS | {"shared_expert_intermediate_size": 1024},
    "mixtral": COMMON | {"num_local_experts": 8, "num_experts_per_tok": 2},
    "deepseek_v3": COMMON | LATENT,
    "deepseek_v2": COMMON | LATENT | {"q_lora_rank": None, "topk_method": "greedy"},
}
WAYS = (
    ("lora", "bf16", False, "sdpa"),
    ("lora", "amp", True, "eager"),
    ("full", "amp", False, "sdpa"),
    ("full", "bf16", True, "sdpa"),
    ("qlora", "amp", False, "sdpa"),
    ("qlora", "amp", True, "sdpa"),
)

SIMULATE = """
import json, sys, tempfile
from pathlib import Path
from tunesmith.stages import lean
from tunesmith.memory.step import Step
from tunesmith.stages.merge.adapter import LoraSettings
from tunesmith.stages.simulate.fake_model import for_training, meta_model
from tunesmith.stages.simulate.record import record_step
from tunesmith.stages.simulate.report import peaks

def simulated(config, step):
    step = Step.model_validate(step)
    found = peaks(record_step(config, step, "cuda"), ("forward_backward", "optimizer"))
    return {"bytes": max(peak.allocated_bytes for peak in found.values()), **adapted(config, step)}

def adapted(config, step):
    model = meta_model(config, for_training(step))
    trained = {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}
    if step.method.method == "full":
        return {"trained": sum(trained.values())}
    with tempfile.TemporaryDirectory() as folder:
        model.peft_config["default"].save_pretrained(folder)
        settings = LoraSettings.model_validate_json((Path(folder) / "adapter_config.json").read_bytes())
    names = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in trained})
    return {"trained": sum(trained.values()), "names": names, "objection": settings.objection()}

print(json.dumps([simulated(*case) for case in json.loads(sys.argv[1])]))
"""


def step_of(method: str, arithmetic: str, recomputed: bool, attention: str) -> Step:
    return Step.model_validate(
        {
            "method": recipe({"method": method, "max_length": 1024}).train,
            "arithmetic": arithmetic,
            "micro_batch_size": 2,
            "gradient_checkpointing": recomputed,
            "accumulates": False,
            "attention": attention,
        }
    )


def config_of(kind: str) -> dict[str, Any]:
    return CONFIGS[kind] | {"model_type": kind}


@pytest.fixture(scope="module")
def simulated() -> dict[tuple[str, int], Any]:
    asked = [(kind, number) for kind in CONFIGS for number in range(len(WAYS))]
    cases = [(config_of(kind), step_of(*WAYS[number]).model_dump(mode="json")) for kind, number in asked]
    return dict(zip(asked, in_environment("train", SIMULATE, json.dumps(cases)), strict=True))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("number", range(len(WAYS)), ids=[" ".join(map(str, way)) for way in WAYS])
def test_the_bill_is_the_simulation(simulated: dict[tuple[str, int], Any], kind: str, number: int) -> None:
    shape, step, found = ModelShape.from_config(config_of(kind)), step_of(*WAYS[number]), simulated[kind, number]
    assert total(step_items(shape, step)) == pytest.approx(found["bytes"], rel=TOLERANCE)
    assert trained_params(shape, step.method) == found["trained"]


@pytest.mark.parametrize("kind", CONFIGS)
def test_adapters_go_on_the_attention_and_can_be_merged(simulated: dict[tuple[str, int], Any], kind: str) -> None:
    found = simulated[kind, 0]
    assert found["objection"] is None
    assert {"o_proj"} <= set(found["names"]) and not {"gate_proj", "up_proj", "down_proj"} & set(found["names"])


def test_packed_attention_leaves_experts_in_16_bits() -> None:
    """Of Mixtral, nearly all is experts: QLoRA takes little less than LoRA, and far less than float32 experts would."""
    shape = ModelShape.from_config(config_of("mixtral"))
    packed, plain = (total(step_items(shape, step_of(method, "amp", True, "sdpa"))) for method in ("qlora", "lora"))
    assert packed < plain + 2 * (shape.embedding_params + shape.head_params) * 2
    assert packed > 2 * shape.expert_weights
