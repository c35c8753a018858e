"""Smaller weights, calibrated on the task's own rows; without a quantizer, the merged model itself."""

from prefect import task

from tasks.retry import LONG
from tasks.run import Run
from tasks.stage import run_stage
from tunesmith.artifacts import MergedModel, Plan, QuantizedModel, Resolved, Servable
from tunesmith.pipeline import quantize_job


@task(**LONG)
def quantize(run: Run, resolved: Resolved, plan: Plan, merged: MergedModel) -> Servable:
    job = quantize_job(run.recipe, resolved, plan, merged)
    if job is None:
        return merged
    quantized = run_stage(run, "quantize", job)
    assert isinstance(quantized, QuantizedModel)
    return quantized
