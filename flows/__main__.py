"""`python -m flows '{"recipe": "smollm2"}'`: one run on this machine; its facts are the last line of stdout."""

import json
import os
import signal
import sys

from tunesmith.errors import TunesmithError
from tunesmith.worker import die_with_parent

# The temporary server of a run without PREFECT_API_URL: patient on a busy machine, and calling nobody.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "90")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
# When it is stopped it reports its own interrupted writes at length: no concern of the run.
os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")


def main() -> int:
    # Asked, not killed, and leaving by the front door: the temporary server is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    die_with_parent(signal.SIGTERM)
    from flows.finetune import finetune  # after the settings above

    try:
        facts = finetune(**json.loads(sys.argv[1]))
    except TunesmithError as error:
        print(json.dumps({"error": type(error).__name__, "message": error.message}))
        return error.exit_code
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
