"""Whose requests are looked at: those to a name of ours, from no page of another site, and with the token where one
is asked for.

A page of another site can have a browser send requests to 127.0.0.1, and with a name that it owns and points there
(DNS rebinding) read the answers as well. The first says so in `Origin` and `Sec-Fetch-Site`, the second in `Host`.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from translate.serve.limits import Refused

PAGES = frozenset({"/", "/api"})
LOCAL_NAMES = frozenset({"localhost"})
OPEN_PATHS = PAGES | {"/page.css", "/page.js", "/slider.js", "/health"}  # say nothing that is worth a token


@dataclass(frozen=True)
class Admission:
    """Who is let in.

    names   names that this server is asked for by, besides addresses in numbers and localhost
    token   what `Authorization: Bearer …` must hold; None: nothing is asked for
    """

    names: frozenset[str] = frozenset()
    token: str | None = None

    def check(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Let a request in, or raise `Refused`. `headers` by their names in lower case."""
        # The name it is asked for by: one that somebody else owns may have been pointed here.
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise Refused(421, "this server is not called so; ask for it by its address, or name it with --name")

        # The page that had the browser ask. A link on another site may lead to our pages, and to nothing else.
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            raise Refused(403, "pages of other sites may not use this server")
        if site in ("cross-site", "same-site") and not (method == "GET" and path in PAGES):
            raise Refused(403, "pages of other sites may not use this server")

        # The token, compared in a time that does not tell how much of it is right.
        if self.token is not None and path not in OPEN_PATHS:
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                raise Refused(401, "a token is needed: Authorization: Bearer …", www_authenticate="Bearer")

    def _is_ours(self, host: str) -> bool:
        """Return whether a `Host` header names this server: nobody can point an address in numbers elsewhere."""
        found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?", host.lower())
        if found is None:
            return False
        name = found[1].strip("[]")
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in LOCAL_NAMES | self.names
        return True


def is_local(address: str) -> bool:
    """Return whether only programs of this machine can reach an address that a server listens at."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address in LOCAL_NAMES
