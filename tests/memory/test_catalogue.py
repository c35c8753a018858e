"""The catalogue's shapes: against the counts that were published, and against the real classes."""

import json
from importlib.resources import files
from typing import Any

import pytest

from tests.memory.cases import QWEN_7B
from tests.memory.real_models import Measured, measured
from tunesmith.memory import catalogue
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.sizes import LIMITS

FILES = sorted(files("tunesmith.memory").joinpath("models").iterdir(), key=lambda file: file.name)
MODELS = {file.name: json.loads(file.read_text()) for file in FILES}

EXACT = {
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "Qwen/Qwen3-0.6B-Base": 596_049_920,
    "Qwen/Qwen3-1.7B-Base": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-9b": 9_241_705_984,
    "google/gemma-2-27b": 27_227_128_320,
    "google/gemma-3-1b-it": 999_885_952,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.1-405B": 405_853_388_800,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "microsoft/phi-4": 14_659_507_200,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
}
"""Numbers in the safetensors files, as the hub counts them."""

ROUNDED = {
    "meta-llama/Llama-2-7b-hf": "6.74",
    "meta-llama/Llama-2-13b-hf": "13.02",
    "meta-llama/Llama-2-70b-hf": "68.98",
    "microsoft/Phi-3.5-mini-instruct": "3.82",
    "deepseek-ai/DeepSeek-V3": "671",
    "Qwen/Qwen3-0.6B": "0.6",
    "Qwen/Qwen3-1.7B": "1.7",
}
"""Billions, where the files hold more than parameters, or parameters twice."""


def shape_of(repo: str) -> ModelShape:
    config = catalogue.lookup(repo)
    assert config
    return ModelShape.from_config(config)


@pytest.mark.parametrize("repo", EXACT)
def test_parameters_are_the_published_ones(repo: str) -> None:
    assert shape_of(repo).params == EXACT[repo]


@pytest.mark.parametrize("repo", ROUNDED)
def test_parameters_round_to_the_published_ones(repo: str) -> None:
    digits = len(ROUNDED[repo].partition(".")[2])
    assert f"{shape_of(repo).params / 1e9:.{digits}f}" == ROUNDED[repo]


def test_every_shape_is_held_against_a_published_count() -> None:
    held = {repo.lower() for repo in (*EXACT, *ROUNDED)}
    unheld = [name for name, config in MODELS.items() if not held & {repo.lower() for repo in config["_repos"]}]
    assert unheld == ["mistral-7b-v0.2.json"]  # The same as v0.1 without its window.
    assert shape_of("mistralai/Mistral-7B-Instruct-v0.2").params == EXACT["mistralai/Mistral-7B-v0.1"]


@pytest.fixture(scope="module")
def real() -> dict[str, Measured]:
    return dict(zip(MODELS, measured(MODELS.values()), strict=True))


@pytest.mark.env
@pytest.mark.parametrize("name", MODELS)
def test_shapes_are_those_of_the_real_classes(real: dict[str, Measured], name: str) -> None:
    shape, truth = ModelShape.from_config(MODELS[name]), real[name]
    assert (shape.params, shape.linear_weights, shape.expert_weights) == (truth.params, truth.packed, truth.routed)
    assert ([shape.window.tokens] * shape.window.layers if shape.window else []) == truth.windows


# Bytes beside two for each parameter: rotary frequencies in every layer of Llama-2, and a second copy of the tied head.
EXTRA = {
    "meta-llama/Llama-2-7b-hf": 2 * 32 * 64,
    "meta-llama/Llama-2-13b-hf": 2 * 40 * 64,
    "meta-llama/Llama-2-70b-hf": 2 * 80 * 64,
    "Qwen/Qwen3-0.6B": 2 * 151_936 * 1024,
    "Qwen/Qwen3-1.7B": 2 * 151_936 * 2048,
}
IN_32_BITS = {
    "google/gemma-2-2b",
    "google/gemma-2-9b",
    "google/gemma-2-27b",
    "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T",
}


@pytest.mark.parametrize("repo", catalogue.known())
def test_weight_bytes_are_those_of_the_parameters(repo: str) -> None:
    size = catalogue.weight_bytes(repo)
    if "DeepSeek" in repo:
        assert size in (None, 688_586_727_753)  # FP8, with scales and the layer that predicts a second token.
        return
    number_bytes = 4 if repo in IN_32_BITS else 2
    assert size == number_bytes * shape_of(repo).params + EXTRA.get(repo.replace("-chat", ""), 0)


def test_a_repo_is_found_in_any_case_and_tuned_ones_share_the_file_of_their_base() -> None:
    base = catalogue.lookup("Qwen/Qwen2.5-7B")
    assert base == catalogue.lookup("qwen/qwen2.5-7b-INSTRUCT")
    assert base and base["_source"] == "https://huggingface.co/Qwen/Qwen2.5-7B/blob/main/config.json"
    assert {key: QWEN_7B[key] for key in base if not key.startswith("_")} == {
        key: value for key, value in base.items() if not key.startswith("_")
    }


def test_what_is_not_there_is_none() -> None:
    assert catalogue.lookup("someone/unheard-of") is None
    assert catalogue.weight_bytes("someone/unheard-of") is None


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("Qwen/Qwen2.5-7B-Instruckt", "Qwen/Qwen2.5-7B-Instruct"),
        ("mistralai/Mistral-7B-v0.4", "mistralai/Mistral-7B-v0.3"),
        ("smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("xyz", None),
    ],
)
def test_the_nearest_name_is_suggested(asked: str, found: str | None) -> None:
    assert catalogue.nearest(asked) == found


def test_a_caller_cannot_alter_the_catalogue() -> None:
    config = catalogue.lookup("Qwen/Qwen3-30B-A3B")
    assert config
    config["mlp_only_layers"].append(0)
    assert catalogue.lookup("Qwen/Qwen3-30B-A3B") != config


def test_every_repo_is_known_once() -> None:
    repos = [repo for config in MODELS.values() for repo in config["_repos"]]
    assert sorted(repos, key=str.lower) == list(catalogue.known())
    assert len({repo.lower() for repo in repos}) == len(repos)


PLAIN_KEYS = (
    "model_type", "tie_word_embeddings", "use_sliding_window", "attn_logit_softcapping", "mlp_only_layers"
)  # fmt: skip


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_files_hold_what_memory_depends_on_and_where_it_is_from(config: dict[str, Any]) -> None:
    source, repos = config["_source"], config["_repos"]
    assert source in {f"https://huggingface.co/{repo}/blob/main/config.json" for repo in repos}
    assert {key for key in config if not key.startswith("_")} <= {*LIMITS, *PLAIN_KEYS}
