"""What a recipe that does not fit could say instead, the smallest change first; never what it says already."""

from collections.abc import Iterator
from typing import NamedTuple

from tunesmith.artifacts import Hardware
from tunesmith.memory.bill import Case, max_model_len
from tunesmith.memory.constants import GIB, SERVER_BATCH_TOKENS, SERVER_UTILIZATION
from tunesmith.memory.groups import dividing_groups
from tunesmith.memory.kv_cache import kv_bytes
from tunesmith.memory.loadable import loading_objection
from tunesmith.memory.search import IN_CACHE, Excess
from tunesmith.memory.serving import longest_sequence, tensor_parallel, utilization
from tunesmith.specs.quantize import Gptq, NoQuantization, Quantize
from tunesmith.specs.recipe import Recipe
from tunesmith.specs.train import Full, Lora, QLora, TrainSpec

_SHORTEST = 64
"""Rows shorter than this, in tokens, are not worth proposing."""
_PINNED = {
    "gradient_checkpointing": ("off",),
    "loss": ("full",),
    "optimizer": ("adamw_fused", "adamw_foreach"),
    "attention": ("eager",),
}
"""Settings that cost memory, which the plan would choose itself."""


class Change(NamedTuple):
    """What to say instead, in words, and the recipe that says so."""

    words: str
    recipe: Recipe


def changes(case: Case, hardware: Hardware, over: Excess) -> Iterator[Change]:
    """Changes worth trying, those that help the phase that exceeds most before those of the training."""
    by_phase = {"serve": _of_serving, "evaluate": _of_evaluation, "quantize": _of_quantization}
    if special := by_phase.get(over.phase.partition(" ")[0]):
        yield from special(case, hardware, over)
    yield from _left_to_the_plan(case.recipe)
    shorter, other = list(_shorter(case.recipe)), list(_other_methods(case.recipe))
    yield from [*shorter[:1], *other, *shorter[1:]]
    for method in other:
        for length in _shorter(method.recipe):
            yield Change(f"{method.words} with {length.words}", length.recipe)


def served_tokens(case: Case, hardware: Hardware, over: Excess) -> int:
    """Tokens of the longest sequence that the server has room for, where it has none for serve.max_model_len."""
    spec, room = case.recipe.serve, over.allowed_bytes
    if hardware.device == "cuda":
        cache = kv_bytes(case.shape, max_model_len(case.recipe), tensor_parallel(spec), chunk=SERVER_BATCH_TOKENS)
        room -= over.needed_bytes - cache
    elif over.phase != IN_CACHE:
        room = spec.kv_cache_gib * GIB
    return longest_sequence(case.shape, spec, max(room, 0))


def _of_serving(case: Case, hardware: Hardware, over: Excess) -> Iterator[Change]:
    recipe, tokens = case.recipe, served_tokens(case, hardware, over)
    if recipe.evaluate.max_new_tokens < tokens < max_model_len(recipe):
        yield _set(recipe, "serve", max_model_len=tokens)
    gib = -(-over.needed_bytes // GIB)
    if over.phase == IN_CACHE:
        yield _set(recipe, "serve", kv_cache_gib=gib)
    if hardware.device == "cuda" and utilization(recipe.serve) < SERVER_UTILIZATION:
        kept = {
            name: value
            for name, value in recipe.serve.engine_args.items()
            if name.replace("_", "-") != "gpu-memory-utilization"
        }
        serve = recipe.serve.model_copy(update={"engine_args": kept})
        yield Change("serve.engine_args without gpu-memory-utilization", recipe.model_copy(update={"serve": serve}))
    packed = _packed(case)
    if packed and not loading_objection(packed.recipe, case.shape, hardware.device, hardware.devices[0]):
        yield packed


def _packed(case: Case) -> Change | None:
    """GPTQ in 4 bits, where the recipe has more and some group divides the model's widths."""
    recipe, quantize = case.recipe, case.recipe.quantize
    if isinstance(quantize, Gptq):
        return _set(recipe, "quantize", bits=4) if quantize.bits > 4 else None
    groups = dividing_groups(case.shape)
    if not groups:
        return None
    packed: Quantize = Gptq(group_size=groups[-1])
    return Change(f"quantize.method gptq with group_size {groups[-1]}", recipe.model_copy(update={"quantize": packed}))


def _of_evaluation(case: Case, hardware: Hardware, over: Excess) -> Iterator[Change]:
    """Fewer rows at once; a GPU's plan has halved them already."""
    rows = case.recipe.evaluate.batch_size
    while hardware.device == "cpu" and rows > 1:
        rows //= 2
        yield _set(case.recipe, "evaluate", batch_size=rows)


def _of_quantization(case: Case, hardware: Hardware, over: Excess) -> Iterator[Change]:
    quantize = case.recipe.quantize
    assert isinstance(quantize, Gptq), "only what is quantized has such a phase"
    rows = quantize.calibration.rows
    while rows > 32:
        rows //= 2
        calibration = quantize.calibration.model_copy(update={"rows": rows})
        changed = _set(case.recipe, "quantize", calibration=calibration)
        yield changed._replace(words=f"quantize.calibration.rows {rows}")
    yield Change("quantize.method none", case.recipe.model_copy(update={"quantize": NoQuantization()}))


def _left_to_the_plan(recipe: Recipe) -> Iterator[Change]:
    """Without one of the settings that cost memory, then without all of them."""
    train = recipe.train
    pinned = [name for name, values in _PINNED.items() if getattr(train, name) in values]
    pinned += ["micro_batch_size"] if (train.micro_batch_size or 1) > 1 else []
    for names in [[name] for name in pinned] + ([pinned] if len(pinned) > 1 else []):
        freed = train.model_copy(update={name: TrainSpec.model_fields[name].default for name in names})
        words = ", ".join(f"train.{name}" for name in names)
        yield Change(f"{' and '.join(words.rsplit(', ', 1))} left out", recipe.model_copy(update={"train": freed}))


def _shorter(recipe: Recipe) -> Iterator[Change]:
    for halvings in (1, 2, 3):
        length = recipe.train.max_length >> halvings
        if length >= _SHORTEST:
            yield _set(recipe, "train", max_length=length)


def _other_methods(recipe: Recipe) -> Iterator[Change]:
    """LoRA, then QLoRA, for a recipe that has tried neither; DeepSpeed's zero3 does not shard packed weights."""
    if isinstance(recipe.train, Full):
        yield _with_method(recipe, Lora)
    if isinstance(recipe.train, Full | Lora) and recipe.parallel.strategy != "zero3":
        yield _with_method(recipe, QLora)


def _with_method(recipe: Recipe, kind: type[Lora] | type[QLora]) -> Change:
    train, method = recipe.train, kind.model_fields["method"].default
    common = {name: getattr(train, name) for name in type(train).model_fields if name in kind.model_fields}
    changed = kind.model_validate({**common, "method": method})
    return Change(f"train.method {method}", recipe.model_copy(update={"train": changed}))


def _set(recipe: Recipe, part: str, **values: object) -> Change:
    """The recipe with other values in one of its parts, which stay of the right type."""
    changed = getattr(recipe, part).model_copy(update=values)
    words = " and ".join(f"{part}.{name} {value}" for name, value in values.items())
    return Change(words, recipe.model_copy(update={part: changed}))
