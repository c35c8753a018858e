"""Ports: one that is free, and why one is not."""

import errno
import socket
from contextlib import closing

import psutil

from tunesmith.errors import PortBusy, ServeRefused, TunesmithError


def free_port() -> int:
    """A port on loopback nobody listens on just now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def objection(host: str, port: int) -> TunesmithError | None:
    """The error that says why the endpoint cannot listen there and what to do, or None."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with closing(socket.socket(family, kind)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        return _explain(error, host, port)
    return None


def _explain(error: OSError, host: str, port: int) -> TunesmithError:
    if error.errno == errno.EADDRINUSE:
        return PortBusy(
            f"Port {port} on {host} is taken{_by_whom(port)}: stop that, or choose another port in serve.port."
        )
    return ServeRefused(
        f"The endpoint cannot listen on {host} port {port} ({error.strerror}): change serve.host or port."
    )


def _by_whom(port: int) -> str:
    """` by NAME (pid N)`, or nothing when the system does not say."""
    try:
        listening = [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
        listeners = [one for one in listening if getattr(one.laddr, "port", None) == port]
        pid = next((c.pid for c in listeners if c.pid), None)
        return f" by {psutil.Process(pid).name()} (pid {pid})" if pid else ""
    except psutil.Error:
        return ""
