"""A task's one line of work: run the job, follow it, note it."""

from collections.abc import Mapping

from prefect import get_run_logger

from tasks.follow import RunLog
from tasks.run import Run
from tunesmith import ledger, runner
from tunesmith.artifacts import Artifact
from tunesmith.jobs import Job


def run_stage(run: Run, name: str, job: Job, secrets: Mapping[str, str] | None = None) -> Artifact:
    """The job's artifact, from the store or freshly made; recorded under the stage's name."""
    outcome = runner.run(job, run.store, RunLog(name), secrets)
    phase = name.partition("/")[0]
    run.record(phase, outcome)
    if run.plan:
        ledger.note(run.store, run.plan, phase, outcome)
    how = "already done" if outcome.cached else f"{outcome.seconds:.1f} s"
    get_run_logger().info("%s: %s (%s)", name, outcome.room, how)
    return outcome.artifact
