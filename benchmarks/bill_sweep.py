"""Where is the bill wrong: random small steps of every family and setting, beside their simulation.

`python benchmarks/bill_sweep.py [--seed N] [--count N]` draws models of 10 to 1000 million parameters, in which no one
term hides the others, and steps with settings drawn alike; prints every one that is billed more than 2 % off, item by
item, and the distribution. benchmarks/results/bill_sweep.md has the distribution.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bill_grid import INNER, answers
from tunesmith.memory.constants import GIB
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.step import Step
from tunesmith.memory.training import moments, total

RESULT = Path(__file__).parent / "results/bill_sweep.md"
FAMILIES = (
    "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "phi3", "qwen3_moe", "mixtral",
    "deepseek_v3",
)  # fmt: skip
SHOWN = 2.0
"""Percent off from which a step is printed."""


class Drawn(NamedTuple):
    """One model and one step."""

    config: dict[str, Any]
    step: Step

    @property
    def name(self) -> str:
        config, step, method = self.config, self.step, self.step.method
        words = [config["model_type"], f"h={config['hidden_size']}", f"V={config['vocab_size']}", method.method]
        words += [step.arithmetic, f"{step.micro_batch_size} x {method.max_length}", step.attention, step.optimizer]
        words += ["checkpointed"] * step.gradient_checkpointing + ["accumulating"] * step.accumulates
        return ", ".join(
            words + ["loss in pieces"] * (step.loss == "chunked") + ["tied"] * config["tie_word_embeddings"]
        )


def drawn(seed: int, count: int) -> Iterator[Drawn]:
    draw = Random(seed)
    for _ in range(count):
        kind = draw.choice(FAMILIES)
        config = _config(draw, kind)
        yield Drawn(config, _step(draw, kind))


def _config(draw: Random, kind: str) -> dict[str, Any]:
    hidden = draw.choice((512, 1024, 2048))
    heads = hidden // 64
    common = {
        "model_type": kind, "hidden_size": hidden, "num_hidden_layers": draw.choice((4, 8)),
        "num_attention_heads": heads, "num_key_value_heads": draw.choice((2, 4, heads)), "head_dim": 64,
        "vocab_size": draw.choice((8192, 32000, 128000)), "intermediate_size": draw.choice((2, 3)) * hidden,
        "max_position_embeddings": 16384, "tie_word_embeddings": draw.random() < 0.5, "sliding_window": 4096,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return common | _special(kind, hidden, heads)


def _special(kind: str, hidden: int, heads: int) -> dict[str, Any]:
    """What the family has that others do not."""
    experts = {"num_experts_per_tok": 4, "moe_intermediate_size": hidden // 2}
    if kind == "gemma2":
        return {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    if kind == "qwen3_moe":
        return experts | {"num_experts": 16}
    if kind == "mixtral":
        return {"num_local_experts": 8, "num_experts_per_tok": 2}
    if kind != "deepseek_v3":
        return {}
    return experts | {
        "n_routed_experts": 16, "first_k_dense_replace": 2, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
        "q_lora_rank": hidden // 4, "kv_lora_rank": hidden // 4, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32,
        "v_head_dim": 64, "num_key_value_heads": heads, "head_dim": 32,
    }  # fmt: skip


def _step(draw: Random, kind: str) -> Step:
    """Settings that the trainer has; capped scores are written out, and float32 has no flash kernels."""
    method = _method(draw, kind)
    arithmetic, attention = draw.choice(("amp", "amp", "bf16", "fp32")), draw.choice(("eager", "sdpa", "sdpa", "flash"))
    if attention == "flash" and (arithmetic == "fp32" or kind == "deepseek_v3"):
        attention = "sdpa"
    return Step.model_validate(
        {
            "method": method,
            "arithmetic": arithmetic,
            "micro_batch_size": draw.choice((1, 1, 2, 4)),
            "gradient_checkpointing": draw.random() < 0.6,
            "accumulates": draw.random() < 0.3,
            "attention": "eager" if kind == "gemma2" else attention,
            "optimizer": draw.choice(("adamw_fused", "adamw_fused", "adamw_foreach", "adamw_8bit", "paged_adamw_8bit")),
            "loss": "full" if kind == "gemma2" else draw.choice(("full", "full", "chunked")),
            "adapter_precision": "fp32" if method["method"] == "full" else draw.choice(("fp32", "fp32", "bf16")),
        }
    )


def _method(draw: Random, kind: str) -> dict[str, Any]:
    method: dict[str, Any] = {
        "method": draw.choice(("full", "lora", "lora", "qlora", "qlora")),
        "max_steps": 1,
        "max_length": draw.choice((128, 512, 1024, 4096)),
    }
    if method["method"] == "full":
        return method
    method |= {"rank": draw.choice((8, 16, 64)), "dropout": draw.choice((0.0, 0.0, 0.05))}
    if kind not in ("phi3", "deepseek_v3") and draw.random() < 0.25:
        method["targets"] = ["q_proj", "v_proj"]
    return method


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=300)
    asked = parser.parse_args()
    chosen = list(drawn(asked.seed, asked.count))
    questions = [{"config": one.config, "step": one.step.model_dump(mode="json")} for one in chosen]
    errors = [_error(one, found) for one, found in zip(chosen, answers(INNER, questions), strict=True)]
    lines = _summary(errors, asked.seed)
    print("\n".join(lines))
    RESULT.write_text("\n".join(lines) + "\n")


def _error(one: Drawn, found: dict[str, Any]) -> float:
    """In percent; printed with both sides where it is large."""
    truth, owners = max(found.values(), key=lambda each: each[0])
    billed = moments(ModelShape.from_config(one.config), one.step)
    moment = max(billed, key=lambda name: total(billed[name]))
    error: float = 100 * (total(billed[moment]) / truth - 1)
    if abs(error) > SHOWN:
        print(
            f"{error:+.2f} % {one.name}\n   bill {moment}: {_in_mib(billed[moment])}\n   simulation: {_in_mib(owners)}"
        )
    return error


def _in_mib(items: dict[str, int]) -> str:
    large = sorted(items.items(), key=lambda item: -item[1])[:10]
    return ", ".join(f"{name} {1024 * size / GIB:.1f}" for name, size in large if size)


def _summary(errors: list[float], seed: int) -> list[str]:
    sizes = sorted(map(abs, errors))
    shares = [sum(size <= bound for size in sizes) / len(sizes) for bound in (0.3, 1, 3)]
    return [
        f"{len(errors)} random small steps (seed {seed}), the bill's error against their simulation.",
        "",
        "| median | within 0.3 % | within 1 % | within 3 % | most too low | most too high |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
        f"| {median(sizes):.2f} % | {shares[0]:.0%} | {shares[1]:.0%} | {shares[2]:.1%} | {min(errors):+.2f} % "
        f"| {max(errors):+.2f} % |",
    ]


if __name__ == "__main__":
    main()
