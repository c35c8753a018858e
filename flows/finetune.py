"""From a recipe to a live endpoint."""

from collections.abc import Iterator
from typing import Any

from prefect import flow

from tasks.backup import begin_backup
from tasks.download import download
from tasks.estimate import estimate
from tasks.evaluate import gate, score
from tasks.merge import merge
from tasks.quantize import quantize
from tasks.resolve import resolve
from tasks.run import Run
from tasks.serve import serve
from tasks.train import train
from tunesmith.pipeline import candidates


def stages(run: Run) -> Iterator[str]:
    """Runs the stages in order, saying each one's name when it is done."""
    resolved = resolve(run)
    yield "resolve"
    plan = estimate(run, resolved)
    yield "estimate"
    begin_backup(run, resolved, plan)
    base = download(run, resolved)
    yield "download"
    tuned = train(run, resolved, plan, base)
    yield "train"
    merged = merge(run, tuned)
    yield "merge"
    served = quantize(run, resolved, plan, merged)
    yield "quantize"
    judged = candidates(base, tuned, merged, served)
    evaluation = gate(run, {name: score(run, resolved, plan, name, model) for name, model in judged.items()})
    yield "evaluate"
    serve(run, resolved, plan, served, evaluation)
    yield "serve"


@flow(name="finetune", flow_run_name="finetune-{recipe}")
def finetune(
    recipe: str, overrides: dict[str, Any] | None = None, store: str | None = None, until: str | None = None
) -> dict[str, Any]:
    """Runs a recipe (a path, or a name in configs/) to its endpoint, or to the stage `until`; returns the run's facts.

    `overrides` are dotted keys, for example `{"train.epochs": 2}`.
    """
    run = Run(recipe, overrides, store)
    with run.backup:
        for finished in stages(run):
            if finished == until:
                break
    return run.report()
