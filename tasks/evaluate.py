"""Every candidate on the held-out rows, and the gate."""

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact

from tasks.retry import LONG, SHORT
from tasks.run import Run
from tasks.stage import run_stage
from tunesmith.artifacts import Evaluation, Model, Plan, Resolved, Score
from tunesmith.errors import GateFailed
from tunesmith.nearside import judge_into
from tunesmith.pipeline import score_job


@task(task_run_name="evaluate/{candidate}", **LONG)
def score(run: Run, resolved: Resolved, plan: Plan, candidate: str, model: Model) -> Score:
    result = run_stage(run, f"evaluate/{candidate}", score_job(run.recipe, resolved, plan, model))
    assert isinstance(result, Score)
    return result


@task(**SHORT)
def gate(run: Run, scores: dict[str, Score]) -> Evaluation:
    outcome = judge_into(run.store, run.recipe, scores)
    evaluation = outcome.artifact
    assert isinstance(evaluation, Evaluation)
    run.record("evaluate", outcome)
    run.evaluation = evaluation
    rows = [
        {"candidate": k, run.recipe.evaluate.metric: v.score, "nll": v.nll, "rows": v.num_rows}
        for k, v in scores.items()
    ]
    create_table_artifact(rows, key="scores", description="Held-out scores")
    get_run_logger().info("evaluate: " + ", ".join(f"{k} {v.score:.3f}" for k, v in scores.items()))
    if evaluation.objections:
        raise GateFailed(" ".join(evaluation.objections))
    return evaluation
