"""What the trainer's own checkpoint takes beyond what stands, as this CPU's allocator tells."""

import json
from typing import Any

import pytest

from tests.rooms import in_environment
from tests.stages.conftest import one_thread
from tunesmith.memory.saving import save_items
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.step import Step

pytestmark = pytest.mark.env

SMALL = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 4096,
}  # fmt: skip
EXPERTS = SMALL | {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 128}
BATCH_BYTES = 2**16
"""Loss and counts that end in between."""

SAVING = """
import json, sys, tempfile
from tunesmith.stages import lean
from torch.profiler import ProfilerActivity, profile
from benchmarks.real_steps import Case, loaded, make_trainer

def taken(case):
    '''The most bytes at once that a checkpoint adds, and the model's and the step's description.'''
    with loaded(case.model_config, case.step) as model, tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(model, case.step, folder)
        trainer.train()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            trainer._save_checkpoint(model, None)
    now = highest = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            highest = max(highest, now)
    return highest, case.model_config, case.step.model_dump(mode="json")

print(json.dumps([taken(Case(**case)) for case in json.loads(sys.argv[1])]))
"""


def test_a_checkpoint_adds_what_the_bill_says() -> None:
    """Nothing for a dense model and for an adapter; for trained experts, gate and up of all."""
    cases: list[dict[str, Any]] = [
        {"kind": "llama", "method": "full", "arithmetic": "fp32", "config": SMALL},
        {"kind": "qwen3_moe", "method": "full", "arithmetic": "bf16", "config": EXPERTS},
        {"kind": "qwen3_moe", "method": "lora", "arithmetic": "bf16", "config": EXPERTS},
    ]
    with one_thread():
        found = in_environment("train", SAVING, json.dumps([case | {"length": 64} for case in cases]))
    added = []
    for taken, config, step in found:
        shape, asked = ModelShape.from_config(config), Step.model_validate(step)
        added.append(save_items(shape, asked)["experts, taken apart"])
        assert taken == pytest.approx(added[-1], abs=BATCH_BYTES), config
    assert added[0] == added[2] == 0 < added[1] / 2**20
