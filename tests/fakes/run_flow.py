"""`python -m flows` with every stage's process replaced by tests/fakes/stage.py: same runner, same worker, no work."""

import sys
from pathlib import Path

from tunesmith import jobs

LAUNCHER = ("{python}", str(Path(__file__).with_name("stage.py")), "{job}")


def replace_far_side() -> None:
    for name, row in jobs.STAGES.items():
        jobs.STAGES[name] = row._replace(environment="main", launcher=LAUNCHER)


if __name__ == "__main__":
    replace_far_side()
    from flows.__main__ import main

    sys.exit(main())
