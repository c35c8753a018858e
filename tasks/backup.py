"""Results kept a second time, in the background; no task, for nothing waits for it and nothing fails with it."""

from prefect import get_run_logger

from tasks.run import Run
from tunesmith.artifacts import Plan, Resolved


def begin_backup(run: Run, resolved: Resolved, plan: Plan) -> None:
    """Starts what the recipe's `backup` asks for, and passes on what it says."""
    logger = get_run_logger()
    run.backup.begin(run.recipe, run.store, resolved, plan, lambda text: logger.info("backup | %s", text))
