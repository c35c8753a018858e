"""A certificate authority of one test's own, and certificates that it signed."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

HOSTS = ("127.0.0.1", "localhost")


class Authority:
    """`file` holds its certificate: what SSL_CERT_FILE has to name for a client to trust what it signs."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(file))

    def signed(self, *hosts: str, age: timedelta = timedelta()) -> ssl.SSLContext:
        """What a server shows that says it is one of `hosts` (both of the tests' hub), so long past its last day."""
        last_day = datetime.now(UTC) + timedelta(days=30) - age
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*(hosts or HOSTS), not_after=last_day).configure_cert(context)
        return context
