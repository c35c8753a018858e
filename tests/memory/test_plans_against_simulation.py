"""A plan that fits, fits when it is simulated: drawn recipes, models and cards, on every rung of the ladder for one GPU.

The cards are the smallest on which a rung is taken, or little more, so the plans are as tight as plans get; some have
3 % of headroom in place of 10 %.
"""

from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

import pytest

from tests.memory.cases import gpu, recipe, source
from tests.memory.simulated import Peak, shortened, simulated
from tunesmith.artifacts import Hardware, Plan
from tunesmith.memory.bill import Case, peaks
from tunesmith.memory.constants import CUDA_CONTEXT_BYTES, GIB
from tunesmith.memory.plan import launchable, make_case, make_plan
from tunesmith.memory.search import first_fit

pytestmark = pytest.mark.env

MODELS = {
    "HuggingFaceTB/SmolLM2-135M": 16,
    "Qwen/Qwen2.5-0.5B": 8,
    "Qwen/Qwen3-0.6B": 6,
    "meta-llama/Llama-3.2-1B": 4,
}
"""With so many blocks; one of them is drawn."""
PACKABLE = "TinyLlama/TinyLlama-1.1B-Chat-v1.0", 22
"""For `auto`: nearly all its weights can be packed, so that there is a card on which they have to be."""
WISHES = (
    ("chunked", "adamw_8bit"), ("full", "adamw_fused"), ("chunked", "paged_adamw_8bit"), ("chunked", "adamw_fused"),
)  # fmt: skip
"""Loss and optimizer: a card is drawn on which they are taken, where there is one."""
DRAWN = 12


class Drawn(NamedTuple):
    """A recipe for a model, and the card it is planned for."""

    case: Case
    card: Hardware
    plan: Plan

    @property
    def rung(self) -> tuple[str, str, str]:
        return rung_of(self.plan)


def drawn(seed: int) -> Drawn:
    """The same for the same seed."""
    draw = Random(f"plan {seed}")
    case = drawn_case(draw, method=("full", "lora", "full", "qlora", "full", "auto", "full")[seed % 7])
    cards = dict(rungs_of(case))
    wished = [rung for rung in cards if rung[1:] == WISHES[seed % len(WISHES)]]
    card = gpu(cards[draw.choice(wished or sorted(cards))] * draw.uniform(1, 1.02))
    return Drawn(case, card, make_plan(case.recipe, case.source, card))


def drawn_case(draw: Random, method: str) -> Case:
    repo, layers = PACKABLE if method == "auto" else draw.choice(sorted(MODELS.items()))
    batch, length = draw.choice(((2, 512), (4, 512), (4, 1024), (8, 256), (8, 1024), (2, 2048)))
    train: dict[str, Any] = {"method": method, "batch_size": batch, "max_length": length}
    train |= {"precision": draw.choice(("auto", "bf16"))} if method == "full" else {"rank": draw.choice((8, 64))}
    quantize = {"method": "gptq", "group_size": 64} if method == "auto" else {"method": "none"}
    asked = recipe(train, quantize, {"headroom": draw.choice((0.03, 0.1))})
    return make_case(launchable(asked), source(shortened(repo, layers), repo, gib=1))


def rungs_of(case: Case) -> Iterator[tuple[tuple[str, str, str], float]]:
    """Every rung that some card makes the plan take, with the smallest such card, GiB, to 2 %; the last one is as asked."""
    rung, gib = None, 1.0
    while not rung or rung[1:] != ("full", "adamw_fused"):
        plan = first_fit(case, gpu(gib))
        if plan and rung_of(plan) != rung:
            rung = rung_of(plan)
            yield rung, gib
        gib *= 1.02


def rung_of(plan: Plan) -> tuple[str, str, str]:
    """Method, loss, optimizer."""
    return plan.step.method.method, plan.step.loss, plan.step.optimizer


@pytest.fixture(scope="module")
def draws() -> list[tuple[Drawn, Peak]]:
    found = [drawn(seed) for seed in range(DRAWN)]
    return list(zip(found, simulated((one.case.source.config, one.plan.step) for one in found), strict=True))


def test_every_rung_is_drawn(draws: list[tuple[Drawn, Peak]]) -> None:
    rungs = {one.rung for one, _ in draws}
    assert {method for method, _, _ in rungs} == {"full", "lora", "qlora"}
    assert {rung[1:] for rung in rungs} == set(WISHES)
    assert {one.plan.gradient_checkpointing for one, _ in draws} == {True, False}


@pytest.mark.parametrize("seed", range(DRAWN))
def test_a_plan_that_fits_fits_when_simulated(draws: list[tuple[Drawn, Peak]], seed: int) -> None:
    one, peak = draws[seed]
    assert peak.reserved + CUDA_CONTEXT_BYTES <= one.card.devices[0].memory_bytes, one.plan.summary


@pytest.mark.parametrize("seed", range(DRAWN))
def test_a_plans_interval_holds_what_is_simulated(draws: list[tuple[Drawn, Peak]], seed: int) -> None:
    """Tensors and context are no more than its high end, and what the high end has too much is little."""
    one, peak = draws[seed]
    high = peaks(one.plan.bill)["train"]
    assert peak.allocated + CUDA_CONTEXT_BYTES <= high
    assert high <= 1.1 * (peak.reserved + CUDA_CONTEXT_BYTES) + GIB / 8
