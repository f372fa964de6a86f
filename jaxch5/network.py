"""The network: whether somebody is there."""

from __future__ import annotations

CONNECT_SECONDS = 4.0


def reachable(url: str) -> bool:
    """Whether an address answers at all, within a few seconds."""
    import requests

    try:
        requests.head(url, timeout=CONNECT_SECONDS, allow_redirects=False)
    except requests.RequestException:
        return False
    return True
