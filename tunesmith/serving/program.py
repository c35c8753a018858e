"""One supervised program, on disk: what to start (JSON) and how to look after it (an ini file for supervisord).

The command lives in the JSON file, which `tunesmith.serving.start` reads at every start. So a restarted program comes
back as it was last described, and no value has to survive the ini format's quoting. Paths in the ini file are
relative to the folder supervisord runs in, for the same reason.
"""

import shlex
import sys
from pathlib import Path

from pydantic import Field

from tunesmith.serving.remnants import end_remnants
from tunesmith.specs.spec import Spec
from tunesmith.store import write_atomically

_INI = """\
[program:{name}]
command={command}
autostart=true
autorestart=true
startsecs=1
startretries=5
stopsignal=TERM
stopwaitsecs={stop_seconds}
killasgroup=true
redirect_stderr=true
stdout_logfile=logs/{name}.log
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=2
"""


class Program(Spec):
    """A command to keep running."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = Field(default_factory=dict)
    """Set over what the supervisor itself was started with; never holds a secret."""
    stop_seconds: int = 10
    """How long it may take to end after SIGTERM before its process group is killed."""


def write(folder: Path, program: Program) -> None:
    """Puts the program's two files under the supervisor's folder; a running one keeps what it was started with."""
    (folder / "programs").mkdir(exist_ok=True)
    (folder / "logs").mkdir(exist_ok=True)
    write_atomically(file_of(folder, program.name, "json"), program.model_dump_json(indent=1).encode())
    start = ["-m", "tunesmith.serving.start", f"programs/{program.name}.json"]
    words = [shlex.quote(word).replace("%", "%%") for word in (sys.executable, *start)]
    ini = _INI.format(name=program.name, command=" ".join(words), stop_seconds=program.stop_seconds)
    write_atomically(file_of(folder, program.name, "conf"), ini.encode())


def read(folder: Path, name: str) -> Program | None:
    """The program as last written, None when there is none."""
    try:
        return Program.model_validate_json(file_of(folder, name, "json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def erase(folder: Path, name: str) -> None:
    """Forgets a stopped program and ends what it left running; its log stays."""
    end_remnants(file_of(folder, name, "group"))
    for ending in ("conf", "json"):
        file_of(folder, name, ending).unlink(missing_ok=True)


def written(folder: Path) -> tuple[str, ...]:
    """Names of all programs, running or not."""
    return tuple(sorted(path.stem for path in (folder / "programs").glob("*.json")))


def log_file(folder: Path, name: str) -> Path:
    return folder / "logs" / f"{name}.log"


def file_of(folder: Path, name: str, ending: str) -> Path:
    return folder / "programs" / f"{name}.{ending}"
