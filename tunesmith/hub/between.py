"""What stands between this machine and a hub, certificates and proxies: the sentence when one of them says no."""

import os
import ssl
from collections.abc import Iterator

from tunesmith.errors import ModelError

_BY_NOBODY_KNOWN = (18, 19, 20, 21)
"""OpenSSL's codes for a certificate that no trusted authority signed."""


def barred(error: BaseException, host: str) -> ModelError | None:
    """The sentence, when a certificate of `host` or a proxy's login ended the attempt, whatever library made it."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ModelError(f"{host} shows a certificate that is not trusted ({_why(cause)}, or use another source.")
        if _wants_login(cause):
            return ModelError(
                "The proxy wants a name and a password (status 407): "
                "set HTTPS_PROXY and HTTP_PROXY to http://NAME:PASSWORD@HOST:PORT."
            )
    return None


def unreadable() -> ModelError | None:
    """The sentence, when SSL_CERT_FILE names no certificates; None when it does, or is not set."""
    file = os.environ.get("SSL_CERT_FILE")
    if not file:
        return None
    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:
        why = error.strerror or type(error).__name__
        return ModelError(f"SSL_CERT_FILE names {file}, which holds no certificates ({why}): correct it, or unset it.")
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _wants_login(error: BaseException) -> bool:
    """An answer with this status in the clear, or the refusal of a tunnel, which the libraries know as text alone."""
    if getattr(getattr(error, "response", None), "status_code", None) == 407:
        return True
    tunnel = type(error).__name__ == "ProxyError" or str(error).startswith("Tunnel connection failed")
    return tunnel and "407" in str(error)


def _why(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _BY_NOBODY_KNOWN:
        advice = "set SSL_CERT_FILE to a file with the certificate of the authority that signed it"
    else:
        advice = "check the address and this machine's clock"
    return f"{error.verify_message.rstrip('.')}): {advice}"
