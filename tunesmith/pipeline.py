"""The jobs of a recipe, in order, each made from the artifacts before it.

An artifact's fingerprint is its job's, so the whole chain can be laid out before anything runs: `lay_out` is what
`tunesmith plan` shows, and the tasks build the very same jobs from the real artifacts.
"""

from tunesmith.artifacts import (
    Adapter,
    Evaluation,
    MergedModel,
    Model,
    ModelSnapshot,
    Plan,
    QuantizedModel,
    Resolved,
    Score,
    Servable,
    Tuned,
    TunedModel,
)
from tunesmith.hub.choose import is_pickled
from tunesmith.hub.gguf_names import is_gguf
from tunesmith.jobs import ConvertJob, DownloadJob, GptqJob, Job, MergeJob, ScoreJob, ServeJob, TrainJob
from tunesmith.specs.evaluate import Gate
from tunesmith.specs.quantize import Gptq
from tunesmith.specs.recipe import Recipe
from tunesmith.specs.spec import fingerprint

STAGE_ORDER = ("resolve", "estimate", "download", "train", "merge", "quantize", "evaluate", "serve")


def download_job(resolved: Resolved) -> DownloadJob:
    return DownloadJob(source=resolved.model)


def convert_job(resolved: Resolved, base: ModelSnapshot) -> ConvertJob | None:
    """None where the weights came as safetensors."""
    paths = [entry.path for entry in resolved.model.files]
    return ConvertJob(base=base) if is_pickled(paths) or is_gguf(paths) else None


def train_job(recipe: Recipe, resolved: Resolved, plan: Plan, base: ModelSnapshot) -> TrainJob:
    return TrainJob(spec=plan.step.method, too_long=recipe.data.too_long, base=base, data=resolved.data, plan=plan)


def merge_job(tuned: Tuned) -> MergeJob:
    return MergeJob(tuned=tuned)


def quantize_job(recipe: Recipe, resolved: Resolved, plan: Plan, merged: MergedModel) -> GptqJob | None:
    """None when the recipe serves 16-bit weights."""
    if not isinstance(recipe.quantize, Gptq):
        return None
    return GptqJob(spec=recipe.quantize, model=merged, data=resolved.data, device=plan.device)


def score_job(recipe: Recipe, resolved: Resolved, plan: Plan, model: Model) -> ScoreJob:
    # The gate and the endpoint's row count do not change a model's own score: leave them out of its identity.
    spec = recipe.evaluate.model_copy(update={"gate": Gate(), "served_rows": 1})
    return ScoreJob(spec=spec, max_length=recipe.train.max_length, model=model, data=resolved.data, device=plan.device)


def candidates(base: ModelSnapshot, tuned: Tuned, merged: MergedModel, served: Servable) -> dict[str, Model]:
    """Who is judged, in order; `quantized` only where there is one."""
    judged: dict[str, Model] = {"base": base, "tuned": tuned, "merged": merged}
    return {**judged, "quantized": served} if served is not merged else judged


def evaluation_fingerprint(recipe: Recipe, scores: dict[str, Score]) -> str:
    return fingerprint("evaluation", recipe.evaluate.gate, scores)


def serve_job(recipe: Recipe, resolved: Resolved, plan: Plan, model: Servable, evaluation: Evaluation) -> ServeJob:
    longest = recipe.train.max_length + recipe.evaluate.max_new_tokens
    return ServeJob(
        name=recipe.name,
        spec=recipe.serve,
        evaluate=recipe.evaluate,
        evaluation=evaluation,
        max_model_len=recipe.serve.max_model_len or longest,
        model=model,
        data=resolved.data,
        device=plan.device,
    )


def lay_out(recipe: Recipe, resolved: Resolved, plan: Plan) -> list[tuple[str, Job]]:
    """Every job of the run with its stage's name (`evaluate/base` and so on for the scores), nothing executed."""
    download = download_job(resolved)
    base = ModelSnapshot(fingerprint=download.fingerprint, repo=resolved.model.repo, commit=resolved.model.commit)
    convert = convert_job(resolved, base)
    base = base.model_copy(update={"fingerprint": convert.fingerprint}) if convert else base
    train = train_job(recipe, resolved, plan, base)
    tuned = expected_tuned(train)
    merge = merge_job(tuned)
    merged = MergedModel(fingerprint=merge.fingerprint, base=base)
    quantize = quantize_job(recipe, resolved, plan, merged)
    served: Servable = merged
    if quantize:
        served = QuantizedModel(fingerprint=quantize.fingerprint, method=quantize.spec.method, base=base)
    judged = candidates(base, tuned, merged, served)
    scores = {name: score_job(recipe, resolved, plan, model) for name, model in judged.items()}
    serve = serve_job(recipe, resolved, plan, served, _expected_evaluation(recipe, scores))
    jobs: list[tuple[str, Job]] = [("download", download)]
    jobs += [("download/convert", convert)] if convert else []
    jobs += [("train", train), ("merge", merge)]
    jobs += [("quantize", quantize)] if quantize else []
    jobs += [(f"evaluate/{name}", job) for name, job in scores.items()]
    return [*jobs, ("serve", serve)]


def expected_tuned(job: TrainJob) -> Tuned:
    """The artifact a train job makes, before it is made."""
    if job.spec.method == "full":
        return TunedModel(fingerprint=job.fingerprint, base=job.base)
    return Adapter(fingerprint=job.fingerprint, method=job.spec.method, base=job.base)


def _expected_evaluation(recipe: Recipe, jobs: dict[str, ScoreJob]) -> Evaluation:
    scores = {name: Score(fingerprint=job.fingerprint, score=0, nll=None, num_rows=0) for name, job in jobs.items()}
    return Evaluation(fingerprint=evaluation_fingerprint(recipe, scores), scores=scores, objections=())
