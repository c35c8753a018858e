"""The estimate stage: its fingerprint, its JSON, the disk, and the table."""

import io
import json

import pytest
from rich.console import Console

from tests.memory.cases import QWEN_7B, cpu, gpu, recipe, source
from tunesmith.artifacts import Dataset, Plan, Resolved
from tunesmith.errors import DiskFull
from tunesmith.memory.constants import GIB
from tunesmith.memory.estimate import check_disk, estimate, to_json
from tunesmith.memory.table import bill_markdown, bill_table
from tunesmith.specs.recipe import Recipe


def resolved() -> Resolved:
    return Resolved(
        fingerprint="1" * 16,
        model=source(QWEN_7B),
        data=Dataset(fingerprint="2" * 16, num_train=800, num_evaluation=200),
    )


def planned(asked: Recipe | None = None, gib: float = 24) -> Plan:
    return estimate(asked or recipe(), resolved(), gpu(gib))


def test_the_same_question_has_the_same_fingerprint() -> None:
    assert planned() == planned()
    assert Plan.model_validate_json(planned().model_dump_json()) == planned()


@pytest.mark.parametrize(
    "other",
    [
        planned(gib=32),
        planned(recipe({"rank": 32})),
        planned(recipe(quantize={"method": "none"})),
        planned(recipe(hardware={"headroom": 0.05})),
    ],
)
def test_another_question_has_another(other: Plan) -> None:
    assert other.fingerprint != planned().fingerprint


def test_the_json_adds_up() -> None:
    facts = json.loads(json.dumps(to_json(planned())))
    assert facts["fits"] is True
    assert facts["peak"]["high_gib"] == max(phase["device_gib"] for phase in facts["phases"].values())
    assert facts["peak"]["low_gib"] < facts["peak"]["high_gib"] <= facts["peak"]["budget_gib"]
    for name, phase in facts["phases"].items():
        for place, gib in (("device", phase["device_gib"]), ("host", phase["host_gib"])):
            items = [item["gib"] for item in facts["bill"] if (item["phase"], item["place"]) == (name, place)]
            assert sum(items) == pytest.approx(gib, abs=0.001)
        assert phase["allocated_gib"] <= phase["reserved_gib"] <= phase["device_gib"]
    assert facts["host_gib"] == pytest.approx(14.8, abs=0.1)
    assert sum(facts["disk"].values()) == pytest.approx(facts["disk_gib"], abs=0.001)
    assert facts["phases"]["serve"]["kv_tokens"] >= 1152 * facts["phases"]["serve"]["max_sequences"] > 0
    assert facts["plan"]["micro_batch_size"] * facts["plan"]["accumulation_steps"] == 16


def test_on_a_cpu_the_host_is_the_device() -> None:
    plan = estimate(recipe(), resolved(), cpu(200))
    assert to_json(plan)["host_gib"] == to_json(plan)["peak"]["high_gib"]


def test_a_disk_that_is_too_small_is_refused_before_anything_moves() -> None:
    needed = planned().disk_bytes
    # Snapshot and merged weights in 16 bits, and the packed ones, at the least.
    assert needed > 14.2 * GIB + 2 * 7_615_616_512 + 7_615_616_512 / 2
    check_disk(needed, needed)
    with pytest.raises(DiskFull, match=r"The store will grow by up to \d+\.\d GiB and its disk has 12\.0 GiB free"):
        check_disk(needed, 12 * GIB)


def test_the_tables_show_every_item_and_the_decision() -> None:
    plan = planned()
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(bill_table(plan.bill, plan))
    terminal, markdown = " ".join(console.export_text().split()), bill_markdown(plan.bill, plan)
    for text in (terminal, markdown):
        assert plan.summary in text
        assert all(item.item in text for item in plan.bill)
        assert "quantize (host memory)" in text
    assert bill_markdown(plan.bill).startswith("| phase | item | GiB |")
