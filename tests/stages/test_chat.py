"""What a chat row becomes: tokens, and the share of them that carries loss."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.rooms import in_environment

pytestmark = pytest.mark.env

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As reasoning models do it: thoughts stay in the last answer only.
FORGETS_THOUGHTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] if loop.last else m['content'].split('</think>')[-1].strip() }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REWRITES = CHATML.replace("{{ m['content'] }}", "{{ m['content'] if loop.last else '...' }}")
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns.') }}{% endif %}" + CHATML
NO_END_TOKEN = "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"

SCRIPT = """
import json, sys
from pathlib import Path
from tunesmith.errors import TunesmithError
from tunesmith.stages.chat import answer, load_tokenizer, render, render_prompt
def look(template, messages):
    try:
        tokenizer = load_tokenizer(folder)
        tokenizer.chat_template = template
        row = render(tokenizer, messages)
    except TunesmithError as error:
        return {"error": type(error).__name__, "message": error.message}
    prompt = render_prompt(tokenizer, messages)
    return {
        "text": tokenizer.decode(row.input_ids),
        "learnt": tokenizer.decode([label for label in row.labels if label >= 0]),
        "labels_are_inputs": all(label in (token, -100) for token, label in zip(*row, strict=True)),
        "prompt": tokenizer.decode(prompt),
        "prompt_is_prefix": row.input_ids[:len(prompt)] == prompt,
        "answer": answer(messages),
    }
folder, without_template = map(Path, sys.argv[1:3])
results = [look(*case) for case in json.loads(sys.argv[3])]
folder = without_template
print(json.dumps([*results, look(None, [])]))
"""


def turns(*contents: str, roles: str = "ua") -> list[dict[str, str]]:
    names = {"s": "system", "u": "user", "a": "assistant"}
    cycle = roles * len(contents)
    return [{"role": names[role], "content": content} for role, content in zip(cycle, contents, strict=False)]


CASES: dict[str, tuple[str, list[dict[str, str]]]] = {
    "one": (CHATML, turns("Send 3 lamps.", '{"count": 3}')),
    "unicode": (CHATML, turns("Größe? 你好 😀", " né 😀\n\n  ok ")),
    "two": (CHATML, turns("a", "a", "assistant", "a b")),
    "system": (CHATML, turns("Be brief.", "Hi", "Ho", roles="sua")),
    "trailing_user": (CHATML, turns("Hi", "Ho", "Bye")),
    "forgets": (FORGETS_THOUGHTS, turns("1", "<think>x</think>one", "2", "<think>y</think>two")),
    "rewrites": (REWRITES, turns("1", "one", "2", "two")),
    "refuses": (REFUSES, turns("Be brief.", "Hi", "Ho", roles="sua")),
    "no_end_token": (NO_END_TOKEN, turns("Hi", "Ho")),
    "melts": ("{% for m in messages %}{{ m['content'] }}{% endfor %}", turns("lam", "ps")),
    "no_answer": (CHATML, turns("Hi")),
    "answer_first": (CHATML, turns("Ho", "Hi", "Ho", roles="aua")),
}


@pytest.fixture(scope="module")
def seen(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    bare = tmp_path_factory.mktemp("bare")
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (bare / name).write_bytes((tiny_model / name).read_bytes())
    found = in_environment("train", SCRIPT, str(tiny_model), str(bare), json.dumps(list(CASES.values())))
    return dict(zip([*CASES, "no_template"], found, strict=True))


def test_the_loss_is_on_the_answer_and_its_end_token(seen: dict[str, Any]) -> None:
    assert seen["one"]["learnt"] == '{"count": 3}<|im_end|>'
    assert seen["one"]["text"] == (
        '<|im_start|>user\nSend 3 lamps.<|im_end|>\n<|im_start|>assistant\n{"count": 3}<|im_end|>\n'
    )


def test_every_character_of_an_answer_counts_whatever_its_script(seen: dict[str, Any]) -> None:
    assert seen["unicode"]["learnt"] == " né 😀\n\n  ok <|im_end|>"


def test_every_assistant_turn_is_learnt_and_no_look_alike(seen: dict[str, Any]) -> None:
    assert seen["two"]["learnt"] == "a<|im_end|>a b<|im_end|>"
    assert seen["system"]["learnt"] == "Ho<|im_end|>"


@pytest.mark.parametrize("case", ["one", "unicode", "two", "system", "trailing_user", "forgets", "no_end_token"])
def test_the_prompt_is_how_the_whole_row_begins(seen: dict[str, Any], case: str) -> None:
    assert seen[case]["prompt_is_prefix"] and seen[case]["labels_are_inputs"]
    assert seen[case]["text"].startswith(seen[case]["prompt"])
    assert seen[case]["text"][len(seen[case]["prompt"]) :].startswith(seen[case]["answer"])


def test_a_prompt_ends_where_the_last_answer_starts(seen: dict[str, Any]) -> None:
    assert seen["trailing_user"]["prompt"] == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert seen["trailing_user"]["answer"] == "Ho"


def test_a_template_that_drops_earlier_thoughts_still_has_every_turn_found(seen: dict[str, Any]) -> None:
    assert seen["forgets"]["learnt"] == "one<|im_end|><think>y</think>two<|im_end|>"


def test_a_turn_without_an_end_token_is_learnt_to_its_end(seen: dict[str, Any]) -> None:
    assert seen["no_end_token"]["learnt"] == "Ho\n"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "rewrites",
            "The model's chat template rewrites earlier turns so that an answer cannot be found again: "
            "split the row into rows with one assistant turn each.",
        ),
        (
            "refuses",
            "The model's chat template refuses a row (no system turns): "
            "give the row the roles and the order that this model knows.",
        ),
        (
            "no_answer",
            "A row needs an assistant turn with a user turn before it: add one, or remove the row.",
        ),
        (
            "answer_first",
            "A row needs an assistant turn with a user turn before it: add one, or remove the row.",
        ),
    ],
)
def test_a_row_that_cannot_be_rendered_is_refused(seen: dict[str, Any], case: str, message: str) -> None:
    assert seen[case] == {"error": "DataError", "message": message}


def test_an_answer_that_melts_into_the_prompt_is_refused(seen: dict[str, Any]) -> None:
    assert seen["melts"]["error"] == "DataError"
    assert seen["melts"]["message"] == (
        "The last answer's first characters melt into the prompt's last token: "
        "remove the white space it starts with, or choose a template that marks where answers start."
    )


def test_a_model_without_a_chat_template_is_refused(seen: dict[str, Any]) -> None:
    assert seen["no_template"]["error"] == "NoChatTemplate"
    assert seen["no_template"]["message"] == (
        "The model's tokenizer has no chat template: start from an instruct model, "
        "or add a chat_template.jinja to the model's folder."
    )
