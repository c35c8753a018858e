"""The same job on a schedule: with nothing new it finds every stage done and leaves the endpoint as it is."""

from typing import Any

from prefect import flow

from flows.finetune import finetune


@flow(name="retrain", flow_run_name="retrain-{recipe}")
def retrain(recipe: str, overrides: dict[str, Any] | None = None, store: str | None = None) -> dict[str, Any]:
    """Runs the recipe again on the data as it is now; returns the run's facts."""
    facts: dict[str, Any] = finetune(recipe, overrides, store)
    return facts
