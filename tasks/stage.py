"""A task's one line of work: run the job, follow it, note it."""

from collections.abc import Mapping

from prefect import get_run_logger

from tasks.follow import RunLog
from tasks.run import Run
from tunesmith import runner
from tunesmith.artifacts import Artifact
from tunesmith.jobs import Job


def run_stage(run: Run, name: str, job: Job, secrets: Mapping[str, str] | None = None) -> Artifact:
    """The job's artifact, from the store or freshly made; recorded under the stage's name."""
    outcome = runner.run(job, run.store, RunLog(name), secrets)
    run.record(name.partition("/")[0], outcome)
    how = "already done" if outcome.cached else f"{outcome.seconds:.1f} s"
    get_run_logger().info("%s: %s (%s)", name, outcome.room, how)
    return outcome.artifact
