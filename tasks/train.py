"""The adapter, or all weights; goes on from its checkpoint."""

from prefect import task

from tasks.retry import LONG
from tasks.run import Run
from tasks.stage import run_stage
from tunesmith.artifacts import Adapter, ModelSnapshot, Plan, Resolved, Tuned, TunedModel
from tunesmith.pipeline import train_job


@task(**LONG)
def train(run: Run, resolved: Resolved, plan: Plan, base: ModelSnapshot) -> Tuned:
    tuned = run_stage(run, "train", train_job(run.recipe, resolved, plan, base))
    assert isinstance(tuned, Adapter | TunedModel)
    return tuned
