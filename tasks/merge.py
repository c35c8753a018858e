"""The adapter into 16-bit weights."""

from prefect import task

from tasks.retry import LONG
from tasks.run import Run
from tasks.stage import run_stage
from tunesmith.artifacts import MergedModel, Tuned
from tunesmith.pipeline import merge_job


@task(**LONG)
def merge(run: Run, tuned: Tuned) -> MergedModel:
    merged = run_stage(run, "merge", merge_job(tuned))
    assert isinstance(merged, MergedModel)
    return merged
