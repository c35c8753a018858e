"""Plans for an architecture that the bill has no formula for: taken for a Llama, and corrected by simulations.

The chosen step is simulated and billed at what that finds; the search goes on with the same share added to all other
steps, until it chooses one whose own simulation says that it fits.
"""

from collections.abc import Callable

from tunesmith.artifacts import Plan, Simulation
from tunesmith.errors import EnvironmentMissing, ModelError, OutOfMemory, StageCrashed, UnknownArchitecture
from tunesmith.memory.bill import Case, Layout, evaluating
from tunesmith.memory.findings import Findings, find
from tunesmith.memory.training import step_items, total

Simulate = Callable[[Plan], Simulation]
"""Runs the plan's step without weights; raises ModelError, EnvironmentMissing, StageCrashed or OutOfMemory where that
is not possible."""
ROUNDS = 3
"""Steps that are simulated at most."""


def looked_into(
    case: Case, search: Callable[[Case], Plan | None], most_frugal: Callable[[Case], Plan], simulate: Simulate | None
) -> Case:
    """The case with what simulations found of it, and with why there are no more where one was not possible.

    `search` gives the best plan of a case, or None where nothing fits; then `most_frugal` is simulated, which may take
    less than it is billed. Raises UnknownArchitecture where that is what `simulate` says: then nothing can be trained.
    """
    if simulate is None:
        return case._replace(unsimulated="")
    for _ in range(ROUNDS):
        plan = search(case) or most_frugal(case)
        if _is_known(case, plan):
            return case
        try:
            simulation = simulate(plan)
        except UnknownArchitecture:
            raise
        except (ModelError, EnvironmentMissing, StageCrashed, OutOfMemory) as error:
            return case._replace(unsimulated=_clause(error.message))
        layout = Layout(plan.device, plan.step, plan.accumulation_steps, plan.evaluation_rows)
        billed, judged = total(step_items(case.shape, plan.step)), total(evaluating(case, layout))
        finding = find(plan.step, billed, simulation, judged)
        case = case._replace(findings=Findings((*case.findings.known, finding)))
    return case._replace(findings=case.findings._replace(is_cautious=True))


def is_simulated(case: Case, plan: Plan) -> bool:
    """Whether the plan's own step was simulated, or could not be."""
    return case.unsimulated is not None or _is_known(case, plan)


def _is_known(case: Case, plan: Plan) -> bool:
    return any(one.step == plan.step for one in case.findings.known)


def _clause(sentence: str) -> str:
    """What was wrong, without what to do, to stand in brackets."""
    wrong = sentence.partition(": ")[0]
    return wrong[:1].lower() + wrong[1:]
