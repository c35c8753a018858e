"""The faults themselves: each turns a good answer into a bad one, for a `Rule` of `tests.hub.faults`."""

from collections.abc import Callable
from email.utils import formatdate

from tests.hub.content import Flipped, Held
from tests.hub.faults import Asked, Change, ranged
from tests.hub.wire import Answer


def status(code: int, **headers: str) -> Change:
    """An error in place of the answer."""
    body = Held(b"no")
    return lambda asked, answer: Answer(code, content=body, length=2).saying(**headers)


def reset(after: int) -> Change:
    """TCP RST once `after` bytes of the body are out."""
    return lambda asked, answer: answer.having(end="reset", end_after=after)


def closed(after: int) -> Change:
    """An ordinary close before the announced end."""
    return lambda asked, answer: answer.having(end="close", end_after=after)


def stall(after: int) -> Change:
    """Silence on an open connection."""
    return lambda asked, answer: answer.having(end="stall", end_after=after)


def trickle(rate: float) -> Change:
    """So many bytes a second."""
    return lambda asked, answer: answer.having(rate=rate)


def surplus(count: int) -> Change:
    """More bytes than were announced."""
    return lambda asked, answer: answer.having(surplus=b"x" * count)


def announced(delta: int) -> Change:
    """A Content-Length that is off by `delta`; the body is what it was."""
    return lambda asked, answer: answer.having(announced=answer.length + delta)


def shifted_range(by: int) -> Change:
    """A Content-Range that names another place than was asked for, and the bytes of that place."""

    def change(asked: Asked, answer: Answer) -> Answer:
        if answer.status != 206:
            return answer
        start = max(0, min(answer.start + by, answer.content.size - answer.length))
        claimed = f"bytes {start}-{start + answer.length - 1}/{answer.content.size}"
        return answer.having(start=start).saying(Content_Range=claimed)

    return change


def other_total(total: int) -> Change:
    """A Content-Range for a file of another size."""

    def change(asked: Asked, answer: Answer) -> Answer:
        claimed = f"bytes {answer.start}-{answer.start + answer.length - 1}/{total}"
        return answer.saying(Content_Range=claimed) if answer.status == 206 else answer

    return change


def no_ranges(asked: Asked, answer: Answer) -> Answer:
    """Range ignored: 200 and the whole file."""
    if answer.status not in (200, 206):
        return answer
    headers = {name: value for name, value in answer.headers.items() if name not in ("Content-Range", "Accept-Ranges")}
    return answer.having(status=200, start=0, length=answer.content.size, headers=headers)


def loop(asked: Asked, answer: Answer) -> Answer:
    """A redirect to where one already is."""
    return Answer(302, {"Location": asked.head.target})


def moved_to(address: str) -> Change:
    """A redirect to any address."""
    return lambda asked, answer: Answer(302, {"Location": address})


def flipped(at: int) -> Change:
    """One byte of the file turned over."""
    return lambda asked, answer: answer.having(content=Flipped(answer.content, at))


def flipped_once(at: int) -> Change:
    """The same, in the first answer that holds that byte."""
    done: list[bool] = []

    def change(asked: Asked, answer: Answer) -> Answer:
        if done or not answer.start <= at < answer.start + answer.length:
            return answer
        done.append(True)
        return flipped(at)(asked, answer)

    return change


def retagged(tag: str) -> Change:
    """Another ETag than the file had before; a request with If-Range gets the whole file, as the standard wants."""

    def change(asked: Asked, answer: Answer) -> Answer:
        if "if-range" in asked.head.headers and asked.where == "cdn":
            answer = ranged(asked, answer.content, tag).having(rate=answer.rate)
        return answer.saying(ETag=f'"{tag}"')

    return change


def clock(skew_seconds: float, now: float) -> Change:
    """Date and Expires from a clock that is wrong."""
    said = {"Date": formatdate(now + skew_seconds, usegmt=True), "Expires": formatdate(now + skew_seconds, usegmt=True)}
    return lambda asked, answer: answer.saying(**said)


def meanwhile(after: int, act: Callable[[], None]) -> Change:
    """Something else happens once `after` bytes of this answer are out."""
    done: list[bool] = []

    def notice(sent: int) -> None:
        if sent >= after and not done:
            done.append(True)
            act()

    return lambda asked, answer: answer.having(meanwhile=notice)
