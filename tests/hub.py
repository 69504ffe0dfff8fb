"""A server on this machine that speaks the Hugging Face Hub's protocol, and serves files of releases."""

import hashlib
import json
import re
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


class Hub:
    """What the server has, how it misbehaves, and what it was asked for.

    files: content by (repository, name). releases: content by path.
    etags: what it says of a file instead of its hash. cut: names of which the first answer ends after so many bytes.
    broken: names of which every answer after that is an error of the server.
    """

    def __init__(self, address):
        self.address = address
        self.files, self.releases, self.etags, self.cut = {}, {}, {}, {}
        self.broken, self.asked = set(), []

    def add(self, repository, folder):
        """All the files of a folder."""
        for path in folder.iterdir():
            if path.is_file():
                self.files[repository, path.name] = path.read_bytes()

    def fetched(self, name):
        """The Range header of every GET of a file; None where there was none."""
        return [wanted for method, path, wanted in self.asked if method == "GET" and path.endswith(name)]


def etag_of(name, content):
    """As the hub: SHA-256 of large files, which are known by their suffix here; git's hash of the others."""
    if name.endswith((".safetensors", ".bin", ".pth")):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving():
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.answer()

        def answer(self):
            hub.asked.append((self.command, self.path, self.headers.get("Range")))
            path = self.path.partition("?")[0]
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/.*)?", path):
                names = [name for repository, name in hub.files if repository == found[1]]
                content = {"id": found[1], "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
                return self.send(json.dumps(content).encode(), {}) if names else self.missing("RepoNotFound", 401)
            if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
                return self.resolve(found[1], found[2])
            if path in hub.releases:
                return self.send(hub.releases[path], {}, path.rpartition("/")[2])
            return self.missing("", 404)

        def resolve(self, repository, name):
            if not any(repository == known for known, _ in hub.files):
                return self.missing("RepoNotFound", 401)
            if (repository, name) not in hub.files:
                return self.missing("EntryNotFound", 404)
            content = hub.files[repository, name]
            etag = hub.etags.get(name) or etag_of(name, content)
            return self.send(content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, name)

        def missing(self, code, status):
            self.send_response(status)
            for name, value in (("X-Error-Code", code), ("X-Repo-Commit", COMMIT), ("Content-Length", "0")):
                self.send_header(name, value)
            self.end_headers()

        def send(self, content, headers, name=""):
            if self.command == "GET" and name in hub.broken and name not in hub.cut:
                return self.missing("", 503)
            start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
            if start and start >= len(content):
                return self.missing("", 416)
            self.send_response(206 if start else 200)
            ranged = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
            sizes = {"Content-Length": str(len(content) - start), "Accept-Ranges": "bytes"}
            for key, value in (headers | ranged | sizes).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                end = hub.cut.pop(name, len(content))
                self.wfile.write(content[start:end])
                self.close_connection = end < len(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def closed_port():
    """An address at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def silent():
    """An address that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def at_home(folder, address, monkeypatch):
    """A user whose folders are below `folder` and whose hub is at `address`."""
    from huggingface_hub import constants

    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(folder / name))
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)  # what is kept of a download that stops, in its units
    monkeypatch.setattr("ssmlab.models.download.LARGE", 1000)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits before it tries again
    yield
