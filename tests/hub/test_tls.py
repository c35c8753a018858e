"""Downloads from a hub that speaks HTTPS, and through proxies; each in a process of its own, which trusts anew."""

import signal
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.hub import breakages as b
from tests.hub.authority import Authority
from tests.hub.client import finish, refusal, start, until
from tests.hub.downloading import REPO, SIZE, leftovers, repo_of
from tests.hub.faults import FaultyHub, Rule
from tests.hub.proxy import Proxy
from tests.hub.repo import Repo
from tunesmith.errors import ModelError
from tunesmith.hub.transfer.sources.modelscope import ModelScope
from tunesmith.store import sha256

WEIGHTS = "model.safetensors"
MB = 1_000_000
FOR_EVER = 600.0


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of this machine; and huggingface_hub asks the public hub nothing of its own accord."""
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority.pem")


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    return authority


def assert_right(facts: dict[str, object], repo: Repo) -> None:
    snapshot = Path(str(facts["path"]))
    assert {path: sha256(snapshot / path) for path in repo.files} == {
        path: content.sha256 for path, content in repo.files.items()
    }
    assert leftovers(snapshot) == []


def test_a_whole_download(trusted: Authority, hf_cache: Path) -> None:
    repo = repo_of()
    with FaultyHub({REPO: repo}, tls=trusted.signed()) as hub:
        facts = finish(start(hub, hf_cache))
        assert hub.address.startswith("https://") and hub.requests("cdn")
    assert_right(facts, repo)


BROKEN = {
    "every connection reset after 1 MB": Rule("cdn", b.reset(MB)),
    "every connection closed after 1 MB, without TLS's own goodbye": Rule("cdn", b.closed(MB)),
    "a reset before the first byte, three times": Rule("cdn", b.reset(0), times=3),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_breaks_off_goes_on(fault: str, trusted: Authority, hf_cache: Path) -> None:
    repo, rule = repo_of(), BROKEN[fault]
    with FaultyHub({REPO: repo}, rule, tls=trusted.signed(), rate=8.0 * MB) as hub:
        facts = finish(start(hub, hf_cache))
        assert hub.sent(WEIGHTS) < SIZE * 1.5, "what had arrived was not asked for again"
    assert rule.met > rule.skip
    assert_right(facts, repo)


def test_a_silent_connection_is_ended_and_its_range_goes_to_another(trusted: Authority, hf_cache: Path) -> None:
    repo, rule = repo_of(), Rule("cdn", b.stall(MB), times=2)
    with FaultyHub({REPO: repo}, rule, tls=trusted.signed(), rate=8.0 * MB) as hub:
        facts = finish(start(hub, hf_cache, read_s=FOR_EVER, slow_s=0.5))
    assert rule.met > 2
    assert_right(facts, repo)


def test_ctrl_c_while_every_connection_is_silent(trusted: Authority, hf_cache: Path) -> None:
    repo, rule = repo_of(), Rule("cdn", b.stall(MB))
    with FaultyHub({REPO: repo}, rule, tls=trusted.signed()) as hub:
        process = start(hub, hf_cache, read_s=FOR_EVER, slow_s=FOR_EVER)
        until(lambda: hub.sent(WEIGHTS) >= 2 * MB, process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode not in (0, None)
        assert not list(hf_cache.rglob("blobs/*.owner")), "the next one need not wait"
        rule.times, before = 0, hub.sent(WEIGHTS)
        facts = finish(start(hub, hf_cache))
        assert hub.sent(WEIGHTS) - before < SIZE
    assert_right(facts, repo)


def test_a_certificate_that_nobody_known_signed(authority: Authority, hf_cache: Path) -> None:
    with FaultyHub({REPO: repo_of()}, tls=authority.signed()) as hub:
        message = refusal(start(hub, hf_cache))
        assert hub.connections() == 1, "asked once, and not again"
    assert message.startswith(f"ModelError {hub.address} shows a certificate that is not trusted (")
    assert "set SSL_CERT_FILE to a file with the certificate of the authority" in message


def test_a_cdn_whose_certificate_nobody_known_signed(trusted: Authority, hf_cache: Path, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other.pem")
    with FaultyHub({REPO: repo_of()}, tls=trusted.signed(), cdn_tls=other.signed()) as hub:
        message = refusal(start(hub, hf_cache))
        assert not hub.sent(WEIGHTS)
    assert message.startswith("ModelError localhost shows a certificate that is not trusted (")


@pytest.mark.parametrize(("hosts", "age"), [(("hub.example",), timedelta()), ((), timedelta(days=40))])
def test_a_certificate_for_another_host_or_another_time(
    hosts: tuple[str, ...], age: timedelta, trusted: Authority, hf_cache: Path
) -> None:
    with FaultyHub({REPO: repo_of()}, tls=trusted.signed(*hosts, age=age)) as hub:
        message = refusal(start(hub, hf_cache))
    assert "is not trusted (" in message and "check the address and this machine's clock" in message


@pytest.mark.parametrize("content", [None, b"nothing of the kind"])
def test_ssl_cert_file_names_no_certificates(
    content: bytes | None, hf_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content:
        (tmp_path / "none.pem").write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with FaultyHub({REPO: repo_of()}) as hub:
        assert "none.pem, which holds no certificates" in refusal(start(hub, hf_cache))
        with pytest.raises(ModelError, match="which holds no certificates"):
            ModelScope(hub.address).listing(REPO, "main")


def test_a_modelscope_that_nobody_trusts(authority: Authority) -> None:
    with FaultyHub({REPO: repo_of()}, tls=authority.signed()) as hub:
        with pytest.raises(ModelError, match="shows a certificate that is not trusted"):
            ModelScope(hub.address).listing(REPO, "main")
        assert hub.connections() == 1


def told(monkeypatch: pytest.MonkeyPatch, **names: str) -> None:
    for name, value in names.items():
        monkeypatch.setenv(name, value)


def test_https_goes_through_the_proxy(trusted: Authority, hf_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, rule = repo_of(), Rule("cdn", b.stall(MB), times=1)
    with (
        FaultyHub({REPO: repo}, rule, tls=trusted.signed(), rate=8.0 * MB) as hub,
        Proxy() as proxy,
    ):
        told(monkeypatch, HTTPS_PROXY=proxy.address, HTTP_PROXY="http://127.0.0.1:9")
        facts = finish(start(hub, hf_cache, read_s=FOR_EVER, slow_s=0.5))
        hosts = {urlsplit(address).netloc for address in (hub.address, hub.cdn)}
        assert set(proxy.tunnels) == hosts and len(proxy.tunnels) == hub.connections() and not proxy.passed
    assert rule.met > 1
    assert_right(facts, repo)


def test_http_goes_through_the_proxy(hf_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = repo_of()
    with (
        FaultyHub({REPO: repo}) as hub,
        Proxy("me:p@ss") as proxy,
    ):
        told(monkeypatch, http_proxy=proxy.address.replace("//", "//me:p%40ss@"))
        facts = finish(start(hub, hf_cache))
        assert len(proxy.passed) == len(hub.requests()) and len(set(proxy.passed)) == 2
    assert_right(facts, repo)


@pytest.mark.parametrize("direct", ["hub", "cdn"])
def test_no_proxy_names_who_is_asked_directly(
    direct: str, trusted: Authority, hf_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, names = repo_of(), {"hub": "127.0.0.1", "cdn": "localhost"}
    with (
        FaultyHub({REPO: repo}, tls=trusted.signed()) as hub,
        Proxy() as proxy,
    ):
        told(monkeypatch, ALL_PROXY=proxy.address, NO_PROXY=f"example.com, {names[direct]}")
        facts = finish(start(hub, hf_cache))
        (other,) = set(names) - {direct}
        assert {tunnel.partition(":")[0] for tunnel in proxy.tunnels} == {names[other]}
    assert_right(facts, repo)


@pytest.mark.parametrize("secure", [True, False])
def test_a_proxy_that_wants_a_password(
    secure: bool, trusted: Authority, hf_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        FaultyHub({REPO: repo_of()}, tls=trusted.signed() if secure else None) as hub,
        Proxy("me:secret") as proxy,
    ):
        told(monkeypatch, HTTPS_PROXY=proxy.address, HTTP_PROXY=proxy.address)
        message = refusal(start(hub, hf_cache))
        assert message.startswith("ModelError The proxy wants a name and a password") and not hub.connections()


def test_a_proxy_that_wants_a_password_for_the_cdn_alone(
    trusted: Authority, hf_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyHub({REPO: repo_of()}, tls=trusted.signed()) as hub, Proxy("me:secret") as proxy:
        told(monkeypatch, HTTPS_PROXY=proxy.address, NO_PROXY="127.0.0.1")
        message = refusal(start(hub, hf_cache))
        assert message.startswith("ModelError The proxy wants a name and a password") and not hub.sent(WEIGHTS)
