"""The repo's card, from the run's manifests: what it was made from, how good it is, what it took."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from huggingface_hub import ModelCardData

from tunesmith.artifacts import Plan, Release, Resolved, Score
from tunesmith.backup.parts import Rooms
from tunesmith.environments import home
from tunesmith.specs.recipe import Recipe
from tunesmith.store import Manifest, Store

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "gptqmodel", "safetensors")
_JUDGED = ("base", "tuned", "merged", "quantized")
_MEASURED = {"train": "train", "merge": "merge", "quantize": "quantize", "evaluate/tuned": "evaluate"}
"""Stage -> the bill's phase."""
_GPU_PEAK = "peak_gpu_bytes"


def write_card(recipe: Recipe, store: Store, rooms: Rooms, license: Mapping[str, str]) -> str:
    """The same for the same manifests, so that a card changes only when there is more to say."""
    found = {stage: manifest for stage, room in rooms.items() if (manifest := store.manifest(room))}
    head = _front_matter(recipe, found, license)
    said = [
        f"# {recipe.name}",
        _opening(recipe, found),
        _table("Made from", ("what", "which", "digest"), _origins(found)),
        _table("Scores", (f"model, by {recipe.evaluate.metric}", "score", "nll", "rows"), _scores(found)),
        _table("Memory", ("stage", "predicted", "seen"), _memory(found)),
        _table("Libraries", ("library", "version"), _versions(found)),
        f"## Recipe\n\n````yaml\n{_recipe(recipe)}````",
    ]
    return f"---\n{head}\n---\n\n" + "\n\n".join(filter(None, said)) + "\n"


def _front_matter(recipe: Recipe, found: Mapping[str, Manifest], license: Mapping[str, str]) -> str:
    resolved = _resolved(found)
    on_a_hub = resolved is not None and resolved.model.path is None
    data = ModelCardData(
        base_model=resolved.model.repo if resolved and on_a_hub else None,
        library_name="transformers" if recipe.train.method == "full" else "peft",
        pipeline_tag="text-generation",
        tags=["tunesmith", recipe.train.method],
        license=license.get("license"),
        license_name=license.get("license_name"),
        license_link=license.get("license_link"),
    )
    return str(data.to_yaml())


def _opening(recipe: Recipe, found: Mapping[str, Manifest]) -> str:
    resolved = _resolved(found)
    base = resolved.model.repo if resolved else "a base model"
    made = [stage for stage in ("train", "merge", "quantize", "serve") if stage in found]
    return f"{base}, tuned by {recipe.train.method}. Finished so far: {', '.join(made) or 'nothing yet'}."


def _origins(found: Mapping[str, Manifest]) -> Iterable[Sequence[str]]:
    if resolved := _resolved(found):
        yield "base model", resolved.model.repo, f"commit `{resolved.model.commit}`"
        data = resolved.data
        yield "data set", f"{data.num_train} training and {data.num_evaluation} held-out rows", f"`{data.fingerprint}`"
    if "data" in found:
        for entry in found["data"].files:
            yield "data file", entry.path, f"sha256 `{entry.sha256}`"


def _scores(found: Mapping[str, Manifest]) -> Iterable[Sequence[str]]:
    for name in _JUDGED:
        manifest = found.get(f"evaluate/{name}")
        if manifest and isinstance(score := manifest.artifact, Score):
            yield name, f"{score.score:.4f}", "" if score.nll is None else f"{score.nll:.4f}", str(score.num_rows)
    if "serve" in found and isinstance(release := found["serve"].artifact, Release):
        yield "served", f"{release.score:.4f}", "", ""


def _memory(found: Mapping[str, Manifest]) -> Iterable[Sequence[str]]:
    plan = found["estimate"].artifact if "estimate" in found else None
    for stage, phase in _MEASURED.items():
        if stage in found and isinstance(plan, Plan):
            manifest = found[stage]
            seen = manifest.metrics.get(_GPU_PEAK, manifest.peak_bytes_seen)
            yield phase, _gib(plan.interval(phase)[1]), _gib(seen)


def _versions(found: Mapping[str, Manifest]) -> Iterable[Sequence[str]]:
    locks = {one.lock_sha256 for one in found.values() if one.environment == "train"}
    for path in sorted((home() / "locks").glob("*.txt")):
        if hashlib.sha256(path.read_bytes()).hexdigest() in locks:
            rows = (line.split("==", 1) for line in path.read_text().splitlines() if "==" in line)
            yield from ((name, version) for name, version in rows if name in _LIBRARIES)


def _recipe(recipe: Recipe) -> str:
    """What its author wrote, less where it lay."""
    tree: dict[str, Any] = recipe.model_dump(mode="json", exclude_unset=True, exclude={"folder"})
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _resolved(found: Mapping[str, Manifest]) -> Resolved | None:
    artifact = found["resolve"].artifact if "resolve" in found else None
    return artifact if isinstance(artifact, Resolved) else None


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row(row) for row in rows]
    return "\n".join([f"## {title}\n", _row(heads), _row(["---"] * len(heads)), *lines]) if lines else ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"
