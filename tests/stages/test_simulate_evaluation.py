"""The simulated evaluation beside real batches on this CPU, and the bill of the evaluation beside the simulated one."""

import json
from typing import Any

import pytest

from benchmarks.evaluate_grid import Case, billed, simulated
from tests.rooms import in_environment
from tests.stages.conftest import one_thread
from tunesmith.memory.training import total

pytestmark = pytest.mark.env

SMALL: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "pad_token_id": 0,
}

REAL = """
import json, sys
from benchmarks.evaluate_truth import Case, measured
print(json.dumps([measured(Case(**case)) for case in json.loads(sys.argv[1])]))
"""


def test_a_batch_takes_what_a_real_one_takes() -> None:
    """A loss is the fullest moment of the first, a block's MLP of the second, written scores of the third."""
    cases: list[dict[str, Any]] = [
        {"kind": "qwen3", "rows": 4, "prompt": 128, "answer": 16, "config": SMALL | {"vocab_size": 8192}},
        {"kind": "llama", "rows": 6, "prompt": 256, "answer": 4, "config": SMALL | {"vocab_size": 256}},
        {"kind": "gemma2", "rows": 4, "prompt": 200, "answer": 8, "config": SMALL | {"vocab_size": 256}},
    ]
    with one_thread():
        found = in_environment("train", REAL, json.dumps(cases))
    for asked, (real, followed) in zip(cases, found, strict=True):
        assert followed == pytest.approx(real, rel=2e-3), asked


def test_the_bill_is_within_three_per_cent_of_the_simulation() -> None:
    """An adapter beside 16 bits, scores that are written out and stay, and a packed base: fuller than the plain one."""
    cases = [
        Case("Qwen/Qwen2.5-0.5B", "lora", 8, 1024),
        Case("google/gemma-2-2b", "full", 8, 1024),
        Case("HuggingFaceTB/SmolLM2-135M-Instruct", "qlora", 32, 1024),
    ]
    for case, (truth, owners) in zip(cases, simulated(cases), strict=True):
        bill = max(map(total, billed(case).values()))
        assert bill == pytest.approx(truth, rel=0.03), (case.name, owners)
