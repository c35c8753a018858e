"""A step or an evaluation, followed from loading the model to its end."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from peft import PeftModel
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

from tunesmith.memory.allocator import Event, Mark
from tunesmith.memory.segments import GRAIN_BYTES
from tunesmith.memory.step import Step
from tunesmith.stages.simulate.fake_model import Loading, for_evaluation, for_training, materialize, meta_model
from tunesmith.stages.simulate.kernels import Kernels, kernels_of, substitutes
from tunesmith.stages.simulate.optimizers import optimizer_of
from tunesmith.stages.simulate.owners import following, name_weights, named
from tunesmith.stages.simulate.report import Recording
from tunesmith.stages.simulate.step import evaluate, prepare, train_twice
from tunesmith.stages.simulate.tracing import Tracer


def record_step(config: Mapping[str, Any], step: Step, kernels: Kernels) -> Recording:
    """Two optimizer steps on that device, the second one marked by phase; raises what `meta_model` raises."""
    stand = _Stand(config, for_training(step), kernels)
    optimizer = optimizer_of(stand.model, step, stand.tracer)
    with stand.at_work():
        loss_of = prepare(stand.model, step)
        owners = train_twice(stand.model, optimizer, loss_of, step, stand.tracer, kernels)
    return stand.recording(owners)


def record_evaluations(
    config: Mapping[str, Any], step: Step, kernels: Kernels, rows: int, tokens: int
) -> Iterator[Recording]:
    """One batch put to each model that is judged, of which one is the fullest; raises what `meta_model` raises."""
    for loading in for_evaluation(step, kernels):
        yield record_evaluation(config, loading, kernels, rows, tokens)


def record_evaluation(
    config: Mapping[str, Any], loading: Loading, kernels: Kernels, rows: int, tokens: int
) -> Recording:
    """One batch of `tokens` columns, those of the answers included."""
    stand = _Stand(config, loading, kernels)
    stand.model.eval()
    answer = tokens - loading.method.max_length
    with stand.at_work():
        owners = evaluate(stand.model, rows, tokens, answer if answer > 0 else tokens - 1, stand.tracer)
    return stand.recording(owners)


class _Stand:
    """A model of fake tensors and what follows it."""

    def __init__(self, config: Mapping[str, Any], loading: Loading, kernels: Kernels) -> None:
        self.model: PreTrainedModel | PeftModel = meta_model(config, loading)
        self.tracer = Tracer(substitutes(), GRAIN_BYTES if kernels == "cuda" else 1)
        self._kernels = kernels
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        with self._fake, self.tracer:
            materialize(self.model, loading.dtype)
        self._standing = name_weights(self.model, self.tracer)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with self._fake, self.tracer, kernels_of(self._kernels), following(self.model, self.tracer):
            yield

    def recording(self, owners: dict[int, str]) -> Recording:
        """What was followed so far; whose the blocks are that are no part of the model is in `owners`."""
        vocab = self.model.config.get_text_config().vocab_size
        names = named(self.tracer.blocks, self._standing | owners, vocab)
        return Recording(tuple(_in_order(self.tracer.stream)), names)


def _in_order(stream: Iterable[Event | Mark]) -> Iterator[Event | Mark]:
    """Blocks that end together, by their number: autocast's copies end in the order of their addresses."""
    ended: list[Event] = []
    for event in stream:
        if isinstance(event, Event) and not event.size:
            ended.append(event)
            continue
        yield from sorted(ended)
        ended = []
        yield event
    yield from sorted(ended)
