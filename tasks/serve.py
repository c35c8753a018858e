"""A live endpoint, proved before it is announced."""

import os

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from tasks.retry import LONG
from tasks.run import Run
from tasks.stage import run_stage
from tunesmith.artifacts import Evaluation, Plan, Release, Resolved, Servable
from tunesmith.pipeline import serve_job
from tunesmith.serving.endpoint import forget_if_dead


@task(**LONG)
def serve(run: Run, resolved: Resolved, plan: Plan, model: Servable, evaluation: Evaluation) -> Release:
    job = serve_job(run.recipe, resolved, plan, model, evaluation)
    forget_if_dead(job, run.store)
    key = run.recipe.serve.api_key_env
    secrets = {key: os.environ[key]} if key and key in os.environ else {}
    release = run_stage(run, "serve", job, secrets)
    assert isinstance(release, Release)
    run.release = release
    text = f"`{release.served_name}` answers at {release.endpoint} (score {release.score:.3f})"
    create_markdown_artifact(text, key="endpoint", description=release.name)
    get_run_logger().info("serve: %s", text)
    return release
