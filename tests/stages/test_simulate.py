"""The simulated step: beside real ones, through the contract, what it depends on, and what is refused."""

import json
from typing import Any

import pytest

from tests.memory.cases import QWEN_7B
from tests.rooms import in_environment
from tests.stages.conftest import one_thread
from tunesmith.artifacts import Simulation
from tunesmith.jobs import SimulateJob
from tunesmith.runner import Outcome, run
from tunesmith.store import Store

pytestmark = pytest.mark.env

SMALL: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 8192,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA = {**SMALL, "model_type": "llama", "tie_word_embeddings": False}

BESIDE_REAL_STEPS = """
import json, sys
from benchmarks.memory_truth import Case, measured
print(json.dumps([measured(Case(**case)) for case in json.loads(sys.argv[1])]))
"""

IN_PROCESS = """
import json, sys
from pathlib import Path
from tunesmith.stages.simulate.simulate import simulate
from tunesmith.errors import TunesmithError
from tunesmith.jobs import SimulateJob
from tunesmith.store import Store
from tunesmith.worker import Room

def attempt(job):
    try:
        return simulate(job, Room(Path(), Store(Path()))).artifact.model_dump(mode="json")
    except TunesmithError as error:
        return {"error": type(error).__name__, "message": error.message}

jobs = json.loads(sys.argv[1])
print(json.dumps({name: attempt(SimulateJob.model_validate(job)) for name, job in jobs.items()}))
"""


def case(kind: str, method: str, arithmetic: str, **settings: Any) -> dict[str, Any]:
    return {"kind": kind, "method": method, "arithmetic": arithmetic, "config": SMALL, **settings}


@pytest.mark.parametrize(
    "cases",
    [
        [
            case("llama", "full", "fp32", checkpointing=True, micro=2),
            case("qwen3", "lora", "bf16", attention="eager", accumulates=True),
            case("gemma2", "qlora", "fp32", micro=2, tied=False, attention="eager"),
        ],
        [
            case("qwen2", "full", "amp", tied=False, optimizer="adamw_foreach"),
            case("llama", "qlora", "amp", checkpointing=True, loss="chunked"),
        ],
    ],
    ids=["without autocast", "with autocast"],
)
def test_a_step_takes_what_a_real_one_takes(cases: list[dict[str, Any]]) -> None:
    """transformers.Trainer on this CPU, as its allocator's own events tell."""
    with one_thread():
        found = in_environment("train", BESIDE_REAL_STEPS, json.dumps(cases))
    for asked, (real, simulated) in zip(cases, found, strict=True):
        assert simulated[0] == pytest.approx(real[0], rel=1e-3), asked
        # A batch of tokens more or less.
        assert simulated[1] == pytest.approx(real[1], abs=2**15), asked


def job(
    config: dict[str, Any],
    method: str = "lora",
    arithmetic: str = "bf16",
    evaluation: tuple[int, int] = (0, 0),
    **step: Any,
) -> SimulateJob:
    length = step.pop("length", 64)
    asked = {
        "method": {"method": method, "max_steps": 1, "max_length": length, **step.pop("train", {})},
        "arithmetic": arithmetic,
        "micro_batch_size": 1,
        "gradient_checkpointing": False,
        "accumulates": False,
        **step,
    }
    rows, tokens = evaluation
    return SimulateJob.model_validate(
        {"step": asked, "config": config, "evaluation_rows": rows, "evaluation_tokens": tokens}
    )


QLORA = job(LLAMA, "qlora", "amp", (4, 96), gradient_checkpointing=True, micro_batch_size=2)


def ran(store: Store) -> Outcome:
    with one_thread():
        return run(QLORA, store)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return ran(Store(tmp_path_factory.mktemp("simulated")).open())


@pytest.fixture(scope="module")
def simulation(outcome: Outcome) -> Simulation:
    assert isinstance(outcome.artifact, Simulation)
    return outcome.artifact


def test_every_byte_has_an_owner(simulation: Simulation) -> None:
    assert simulation.evaluate is not None
    for peak in (simulation.forward_backward, simulation.optimizer, simulation.evaluate):
        assert sum(peak.owners.values()) == peak.allocated_bytes
        assert peak.reserved_native_bytes >= peak.allocated_bytes <= peak.reserved_expandable_bytes
        assert list(peak.owners.values()) == sorted(peak.owners.values(), reverse=True)


def test_owners_are_called_as_practitioners_call_them(simulation: Simulation) -> None:
    expected = {"weights", "adapter", "optimizer states", "logits and loss", "autocast copies of weights"}
    assert expected | {"activations residual stream"} <= set(simulation.forward_backward.owners)
    assert {"gradients", "optimizer states"} <= set(simulation.optimizer.owners)


def test_the_course_of_the_step_passes_its_peaks(simulation: Simulation) -> None:
    moments = simulation.timeline
    assert 0 < len(moments) <= 400
    assert [moment.event for moment in moments] == sorted(moment.event for moment in moments)
    for phase, peak in (("forward_backward", simulation.forward_backward), ("optimizer", simulation.optimizer)):
        totals = [sum(moment.owners.values()) for moment in moments if moment.phase == phase]
        assert max(totals) == peak.allocated_bytes


def test_the_evaluation_keeps_keys_and_values_of_all_rows(simulation: Simulation) -> None:
    assert simulation.evaluate is not None
    assert simulation.evaluate.owners["KV cache"] == 2 * 2 * (4 * 96) * (2 * 32) * 2
    assert "optimizer states" not in simulation.evaluate.owners


def test_versions_are_those_of_the_environment(simulation: Simulation) -> None:
    assert set(simulation.versions) == {"torch", "transformers", "peft", "bitsandbytes"}
    assert simulation.events > 1000


def test_the_same_job_gives_the_same_bytes(outcome: Outcome, store: Store) -> None:
    again = ran(store)
    assert again.room == outcome.room and again.artifact.fingerprint == QLORA.fingerprint
    assert again.artifact.model_dump_json() == outcome.artifact.model_dump_json()


def test_the_order_of_the_configuration_does_not_count() -> None:
    reordered = dict(reversed(LLAMA.items()))
    assert job(reordered).fingerprint == job(LLAMA).fingerprint != job({**LLAMA, "vocab_size": 8200}).fingerprint


LONG = {"length": 512, "gradient_checkpointing": True}


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    jobs = {
        "lora": job(LLAMA, length=512),
        "checkpointed": job(LLAMA, **LONG),
        "accumulating": job(LLAMA, "full", **LONG, accumulates=True),
        "full": job(LLAMA, "full", **LONG),
        "foreach": job(LLAMA, "full", **LONG, optimizer="adamw_foreach"),
        "8 bits": job(LLAMA, "full", **LONG, optimizer="adamw_8bit"),
        "paged": job(LLAMA, "full", **LONG, optimizer="paged_adamw_8bit"),
        "whole loss": job(LLAMA, **LONG | {"length": 1024}),
        "loss in pieces": job(LLAMA, **LONG | {"length": 1024}, loss="chunked"),
        "bf16 adapter": job(LLAMA, length=512, adapter_precision="bf16"),
        "padded": job(LLAMA, length=512, micro_batch_size=2),
        "padded flash": job(LLAMA, length=512, micro_batch_size=2, attention="flash"),
        "eager": job(LLAMA, length=512, attention="eager"),
        "on a cpu": job(LLAMA, arithmetic="fp32", evaluation=(2, 64)),
        "qwen": job({**QWEN_7B, "num_hidden_layers": 4}, "full", length=2048, gradient_checkpointing=True),
        "refused": job({**LLAMA, "hidden_act": "swoosh"}),
        "unknown": job({**LLAMA, "model_type": "lama"}),
        "heads": job({**LLAMA, "head_dim": 33}),
        "targets": job(LLAMA, train={"targets": ["q_proj", "w_proj"]}),
    }
    asked = {name: one.model_dump(mode="json") for name, one in jobs.items()}
    with one_thread():
        found = in_environment("train", IN_PROCESS, json.dumps(asked))
    assert isinstance(found, dict)
    return found


def peak(results: dict[str, Any], name: str, phase: str = "forward_backward") -> int:
    allocated: int = results[name][phase]["allocated_bytes"]
    return allocated


def test_checkpointing_and_a_loss_in_pieces_take_less(results: dict[str, Any]) -> None:
    assert peak(results, "checkpointed") < peak(results, "lora")
    logits = {
        name: results[name]["forward_backward"]["owners"]["logits and loss"]
        for name in ("whole loss", "loss in pieces")
    }
    assert logits["loss in pieces"] < 0.7 * logits["whole loss"]


def test_gradients_that_accumulate_are_there_from_the_start(results: dict[str, Any]) -> None:
    first = results["accumulating"]["timeline"][0]["owners"], results["full"]["timeline"][0]["owners"]
    assert first[0]["gradients"] > 2**20 and "gradients" not in first[1]


def test_optimizers_differ_in_states_and_temporaries(results: dict[str, Any]) -> None:
    weights = results["full"]["optimizer"]["owners"]["weights"]
    assert peak(results, "foreach", "optimizer") == pytest.approx(
        peak(results, "full", "optimizer") + weights, rel=0.01
    )
    # Trainer keeps the embedding's states in 32 bits, so they are not a quarter in all.
    states = {name: results[name]["optimizer"]["owners"]["optimizer states"] for name in ("8 bits", "paged")}
    assert states["8 bits"] == pytest.approx(8 * 8192 * 128 + 2.06 * (weights / 2 - 8192 * 128), rel=0.02)
    assert states["paged"] < states["8 bits"] / 10


def test_an_adapter_in_16_bits_keeps_no_wide_inputs(results: dict[str, Any]) -> None:
    wide, narrow = (results[name]["forward_backward"]["owners"] for name in ("lora", "bf16 adapter"))
    assert narrow["activations adapters"] < wide["activations adapters"] / 2


def test_attention_by_its_kernel(results: dict[str, Any]) -> None:
    """Flash keeps no scores and takes no mask; the mask makes keys and values of every head; eager keeps the scores."""
    assert peak(results, "padded flash") < peak(results, "padded")
    scores = 2 * 4 * 512 * 512 * 2
    eager, fused = (results[name]["forward_backward"]["owners"]["activations attention"] for name in ("eager", "lora"))
    assert eager > fused + scores


def test_float32_is_a_cpu(results: dict[str, Any]) -> None:
    found = results["on a cpu"]
    assert found["evaluate"]["owners"]["weights"] == pytest.approx(found["optimizer"]["owners"]["weights"], rel=0.001)
    assert "adapter" not in found["evaluate"]["owners"]


def test_four_blocks_of_qwen_7b(results: dict[str, Any]) -> None:
    """Four numbers of 16 bits for every weight, and the last gradients on their way."""
    weights = 2 * 152_064 * 3584 + 4 * 233_057_792 + 3584
    assert peak(results, "qwen") == pytest.approx(4 * 2 * weights, rel=0.002)


def test_refusals_say_what_to_do(results: dict[str, Any]) -> None:
    assert results["unknown"] == {
        "error": "UnknownArchitecture",
        "message": "This transformers has no model_type 'lama': choose a model it knows, or update it.",
    }
    assert results["refused"]["error"] == "ModelError"
    assert results["refused"]["message"] == (
        "transformers' llama refuses this config.json (it knows no 'swoosh'): fetch the model's own file again."
    )
    assert results["heads"]["error"] == "ModelError"
    assert results["heads"]["message"].endswith("): fetch the model's own file again.")
    assert results["targets"]["error"] == "RecipeError"
