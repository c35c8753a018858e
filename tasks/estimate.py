"""The bill and the plan, before a gigabyte moves."""

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from tasks.retry import SHORT
from tasks.run import Run
from tunesmith.artifacts import Plan, Resolved
from tunesmith.errors import DoesNotFit
from tunesmith.memory.picture import bill_image
from tunesmith.memory.summary import idle_gpus
from tunesmith.memory.table import bill_markdown
from tunesmith.nearside import estimate_into


@task(**SHORT)
def estimate(run: Run, resolved: Resolved) -> Plan:
    try:
        outcome = estimate_into(run.store, run.recipe, resolved)
    except DoesNotFit as refusal:
        shown = bill_image(refusal.closest) + bill_markdown(refusal.bill, refusal.plan)
        create_markdown_artifact(shown, key="bill", description=refusal.message)
        raise
    plan = outcome.artifact
    assert isinstance(plan, Plan)
    run.plan = plan
    run.record("estimate", outcome)
    shown = bill_image(plan, run.recipe.hardware.headroom) + bill_markdown(plan.bill, plan)
    create_markdown_artifact(shown, key="bill", description=plan.summary)
    get_run_logger().info(plan.summary)
    if idle := idle_gpus(run.recipe.hardware, plan.step, plan.device):
        get_run_logger().warning("estimate: %s: a run starts one process on one GPU", idle)
    return plan
