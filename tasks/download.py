"""The base model's bytes, verified."""

from prefect import task

from tasks.retry import SHORT
from tasks.run import Run
from tasks.stage import run_stage
from tunesmith.artifacts import ModelSnapshot, Resolved
from tunesmith.pipeline import convert_job, download_job


@task(**SHORT)
def download(run: Run, resolved: Resolved) -> ModelSnapshot:
    snapshot = run_stage(run, "download", download_job(resolved))
    assert isinstance(snapshot, ModelSnapshot)
    if convert := convert_job(resolved, snapshot):
        snapshot = run_stage(run, "download/convert", convert)
        assert isinstance(snapshot, ModelSnapshot)
    return snapshot
