"""What can go wrong with one request, as the pool tells it apart; none of these leaves the package."""

from tunesmith.errors import TunesmithError


class Fault(Exception):
    """Root; the text says what happened, for people."""


class Broke(Fault):
    """It may work when asked again: a reset, a stall, a short body, a busy server."""

    def __init__(self, what: str, wait_s: float = 0.0, busy: bool = False) -> None:
        """`wait_s`: what the server asked to be left alone for. `busy`: it wants fewer requests."""
        super().__init__(what)
        self.wait_s, self.busy = wait_s, busy


class Gone(Fault):
    """A signed address is no longer good: the source must be asked for another."""


class NoRanges(Fault):
    """The server sends files only from their beginning."""


class Changed(Fault):
    """The server has another file than before."""


class Dropped(Fault):
    """This side ended a connection that was far slower than its siblings, or everything."""


class Refused(Fault):
    """Asking this source for this file again is of no use."""

    def __init__(self, what: str, status: int | None = None, code: str | None = None) -> None:
        """`status` and `code` (`X-Error-Code`) of the answer, where it was one from the source itself."""
        super().__init__(what)
        self.status, self.code = status, code


class Explained(Fault):
    """The source itself said what is wrong."""

    def __init__(self, error: TunesmithError) -> None:
        super().__init__(error.message)
        self.error = error
