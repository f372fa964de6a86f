"""Provides a local server that can fail in several ways, archives, and an empty cache folder."""

import io
import tarfile
import threading
import time
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image


class Served:
    """Holds the server's files, and counts how often each path was requested."""

    def __init__(self, address):
        self.address = address
        self.files = {}
        self.asked = Counter()

    def link(self, name, content=None):
        if content is not None:
            self.files["/" + name] = content
        return f"{self.address}/{name}"


@pytest.fixture
def server():
    """A server on the loopback address, whose answer to a request for file X depends on the path.

    /X answers with the file; /moved/X redirects to it; /slow/X takes a second; /shaky/X fails the
    first time; /cut/X is cut short the first time, and /stalled/X stops for five seconds at its
    middle; /busy/X gets the status 429 the first time, and /later/X gets 408 and is told to wait
    for a second; /broken/X, /flooded/X and /forbidden/X always fail, with the status 503, 429 or
    403. For any other path, the server answers that there is no such file.
    """

    always = {"broken": 503, "flooded": 429, "forbidden": 403}
    at_first = {"shaky": 503, "busy": 429, "later": 408}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            served.asked[self.path] += 1
            first, _, rest = self.path[1:].partition("/")
            if first == "moved":
                self.send_response(302)
                self.send_header("Location", f"/{rest}")
                self.end_headers()
                return
            if first == "slow":
                time.sleep(1)
            again = served.asked[self.path] > 1
            if status := always.get(first) or (0 if again else at_first.get(first)):
                self.send_response(status)
                if first == "later":
                    self.send_header("Retry-After", "1")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = served.files.get(self.path if f"/{rest}" not in served.files else f"/{rest}")
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if first == "cut" and served.asked[self.path] == 1:
                content = content[: len(content) // 2]
            if first == "stalled" and served.asked[self.path] == 1:
                content = content[: len(content) // 2]
                self.wfile.write(content)
                time.sleep(5)
                return
            self.wfile.write(content)

        def do_HEAD(self):
            self.send_error(405)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Served(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """The path of the user's cache folder, which is set to a folder that does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def png():
    """A function that returns the bytes of a PNG picture in a given shade of grey."""

    def png_of(shade):
        content = io.BytesIO()
        Image.new("L", (20, 20), shade).save(content, "PNG")
        return content.getvalue()

    return png_of


def zip_of(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def tar_gz_of(files):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return content.getvalue()


@pytest.fixture
def zipped():
    """A function that returns the bytes of a zip file, given its members' names and contents."""
    return zip_of


@pytest.fixture
def tarred():
    """A function that returns the bytes of a compressed tar file, given names and contents."""
    return tar_gz_of


@pytest.fixture(params=[zip_of, tar_gz_of], ids=["zip", "tar"])
def packed(request):
    """The functions of `zipped` and `tarred`, one after the other."""
    return request.param
