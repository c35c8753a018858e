"""`main` into a commit, data files into their content."""

from prefect import get_run_logger, task

from tasks.retry import SHORT
from tasks.run import Run
from tunesmith.artifacts import Resolved
from tunesmith.hub.transfer.report import Silent
from tunesmith.resolve import resolve as resolve_now


@task(**SHORT)
def resolve(run: Run) -> Resolved:
    outcome = resolve_now(run.recipe, run.store, _Warnings())
    resolved = outcome.artifact
    assert isinstance(resolved, Resolved)
    run.record("resolve", outcome)
    get_run_logger().info(
        "resolve: %s at %.12s, %d training and %d held-out rows, %.2f GiB to fetch",
        resolved.model.repo, resolved.model.commit, resolved.data.num_train, resolved.data.num_evaluation,
        resolved.model.total_bytes / 2**30,
    )  # fmt: skip
    return resolved


class _Warnings(Silent):
    """A source that was passed over is in the run's log."""

    def note(self, text: str) -> None:
        get_run_logger().warning("resolve: %s", text)
