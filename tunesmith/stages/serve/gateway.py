"""Starts vllm-router in the `serve` environment, told whom to ask about API keys.

`python -m tunesmith.stages.serve.gateway KEY_CHECKER_URL FLAGS`: an empty URL where no key is needed, and the flags of
vllm-router itself. Its own launcher has none for `api_key_validation_urls`, without which its administration
(`/add_worker` and the like) is open to anyone.
"""

import sys

from vllm_router.launch_router import parse_router_args
from vllm_router.router import policy_from_str
from vllm_router_rs import Router


def run(key_checker: str, flags: list[str]) -> None:
    """Routes until it is stopped; `key_checker` is empty where no key is needed."""
    fields = vars(parse_router_args(flags))
    del fields["mini_lb"]
    fields |= {"policy": policy_from_str(fields["policy"]), "prefill_policy": None, "decode_policy": None}
    fields |= {"prefill_urls": None, "decode_urls": None}
    Router(**fields, api_key_validation_urls=[key_checker] if key_checker else []).start()


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:])
