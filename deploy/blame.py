"""Why a build step failed, read from what it printed."""

import re

_CAUSES = (
    (r"No space left on device|Errno 28\b", "the disk is full: free a few gigabytes and run the same command."),
    (
        r"ensurepip is not available|No module named ensurepip|returned non-zero exit status.*ensurepip",
        "this Python has no ensurepip: install the package python3.11-venv.",
    ),
    (
        r"Temporary failure in name resolution|Name or service not known|Failed to establish a new connection"
        r"|Network is unreachable|Connection refused|Read timed out|ConnectTimeout|ProxyError",
        "the package index does not answer: check the network, the proxy and pip's index setting, then run it again.",
    ),
    (
        r"No matching distribution found for (?P<what>\S+)",
        "the package index has no {what} for this machine: the locks are for Linux on x86-64 with Python 3.11.",
    ),
    (r"Permission denied|Read-only file system", "the folder cannot be written: fix its permissions."),
    (r"(?P<what>(ImportError|OSError|ModuleNotFoundError): .*)", "its libraries do not import ({what})."),
)
_TAIL_LINES = 12


def explain(output: str) -> str:
    """One sentence with the cause and the remedy where the output shows a known cause, else its last lines."""
    for pattern, sentence in _CAUSES:
        if found := re.search(pattern, output):
            return sentence.format(**found.groupdict())
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith("WARNING: Location")]
    return "\n  " + "\n  ".join(lines[-_TAIL_LINES:]) + "\n"
