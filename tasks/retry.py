"""When to try again: never for what would fail the same way, a few times for what may pass."""

from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from tunesmith.errors import TryAgain


def may_pass_later(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether the failure says so itself; a mistake in the recipe or the data does not."""
    return isinstance(state.result(raise_on_failure=False), TryAgain)


# Finished rooms are the only cache: Prefect's own does not notice that a file changed or went away.
SHORT: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": 3,
    "retry_delay_seconds": [2, 10, 30],
    "retry_condition_fn": may_pass_later,
}
LONG: dict[str, Any] = {**SHORT, "retries": 2, "retry_delay_seconds": [5, 30]}
