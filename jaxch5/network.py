"""The network: whether somebody is there."""

from __future__ import annotations

import ssl
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

CONNECT_SECONDS = 4.0


def reachable(url: str) -> bool:
    """Checks whether an address answers at all, within a few seconds."""
    try:
        urlopen(Request(url, method="HEAD"), timeout=CONNECT_SECONDS).close()
    except (HTTPError, HTTPException):
        return True
    except (OSError, ValueError) as error:
        # Whoever shows another certificate than the one expected is there.
        return isinstance(error, URLError) and isinstance(error.reason, ssl.SSLError)
    return True
