"""The small server answers requests from this machine alone, and none from pages of other sites."""

import http.client
import threading

import pytest
import requests

from jaxch5.errors import CheckpointError, DataError
from jaxch5.util.loopback import JSON, LONGEST, Reply, listening, serve


@pytest.fixture(scope="module")
def address():
    def respond(path, posted):
        if path == "/wrong":
            raise DataError("a.jpg: is wrong")
        if path == "/full":
            raise CheckpointError("a.jsonl: cannot be written")
        return Reply(f"{path} {posted}".encode(), seconds=60 * (path == "/kept"))

    server = listening(0)
    threading.Thread(target=serve, args=(server, respond), daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_it_answers_and_says_what_a_browser_may_do(address):
    reply = requests.get(f"{address}/kept?a")
    assert reply.text == "/kept?a None"
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert "unsafe" not in reply.headers["Content-Security-Policy"]
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert reply.headers["Cache-Control"] == "no-store"
    kept = requests.get(f"{address}/kept")
    assert kept.headers["Cache-Control"] == "private, max-age=60"
    assert requests.post(f"{address}/a", json={"b": 1}).text == "/a {'b': 1}"
    wrong = requests.get(f"{address}/wrong")
    assert (wrong.status_code, wrong.text) == (422, "a.jpg: is wrong")
    full = requests.get(f"{address}/full")
    assert (full.status_code, full.text) == (507, "a.jsonl: cannot be written")


def test_another_name_is_refused(address):
    """A request with another host name, or with another port, is refused.

    A page of another site could make the name of that site resolve to this machine.
    """
    for host in ("elsewhere.example", "127.0.0.1", "127.0.0.1:1"):
        assert requests.get(address, headers={"Host": host}).status_code == 400
        assert requests.post(address, json=1, headers={"Host": host}).status_code == 400


def test_other_pages_cannot_post(address):
    """A post is refused if its origin is another page, or if its content type is not JSON.

    A form can post other content types without asking the server first, but not JSON.
    """
    for origin in ("http://elsewhere.example", "null", address.replace("http", "https")):
        assert requests.post(address, json=1, headers={"Origin": origin}).status_code == 403
    assert requests.post(address, json=1, headers={"Origin": address}).ok
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        reply = requests.post(address, data=b"{}", headers={"Content-Type": kind})
        assert reply.status_code == 415
    # With this request, a browser asks for permission before it lets another page post JSON.
    assert requests.options(address).status_code == 501


def test_what_is_no_json_or_too_long_is_refused(address):
    for body in (b"{", b"\xff", b"[" * 100_000):
        reply = requests.post(address, data=body, headers={"Content-Type": JSON})
        assert reply.status_code == 400
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    connection.putrequest("POST", "/")
    connection.putheader("Content-Type", JSON)
    connection.putheader("Content-Length", str(LONGEST + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
