"""A Google Cloud Storage of one bucket in memory: what gcsfs, tensorstore and google-cloud-storage ask of the JSON API.

Uploads at once, in parts of a multipart, and resumable; downloads with ranges; conditions on generations; listings in
pages; copies, moves, deletions.
"""

import base64
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import RLock, Thread
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 5
"""Names in a page of a listing, at most; the service too may give fewer than were asked for."""
UPLOAD_UNIT = 2**18
"""The bytes of every part of a resumable upload but the last are a multiple of this."""


class Stored(NamedTuple):
    """An object."""

    content: bytes
    generation: int


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class FakeGCS:
    """The bucket, and what was asked of it."""

    def __init__(self, bucket: str):
        self.bucket, self.url = bucket, ""
        self.objects: dict[str, Stored] = {}
        self.asked: Counter[str] = Counter()
        """How often each method of the API was called."""
        self.refuse: Callable[[str, str], Refusal | None] = lambda method, path: None
        """Which requests are answered with an error."""
        self._lock, self._generations = RLock(), itertools.count(1_700_000_000_000_000)
        self._uploads: dict[str, tuple[str, dict[str, str], bytearray]] = {}

    @contextmanager
    def serving(self) -> Iterator["FakeGCS"]:
        """A block in which it answers at ``url``."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version, cloud = "HTTP/1.1", self
            do_GET = do_POST = do_PUT = do_DELETE = lambda handler: _answer(handler)
            log_message = lambda *_: None  # noqa: E731

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.handle_error = lambda *_: None  # clients that were killed, or hung up
            self.url = f"http://127.0.0.1:{server.server_address[1]}"
            Thread(target=server.serve_forever, daemon=True).start()
            yield self
            server.shutdown()

    @property
    def environment(self) -> dict[str, str]:
        """Directs gcsfs and google-cloud-storage here, and tensorstore, as no machine of Google's."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
            "NO_GCE_CHECK": "true",
        }

    def names(self, prefix: str = "") -> list[str]:
        """The names of the objects that begin so."""
        with self._lock:
            return sorted(name for name in self.objects if name.startswith(prefix))

    def put(self, name: str, content: bytes, query: dict[str, str] | None = None) -> dict:
        """Stores an object, where its generation is as the query says."""
        with self._lock:
            self._check(name, query or {})
            self.objects[name] = Stored(bytes(content), next(self._generations))
            return self.resource(name)

    def find(self, name: str, query: dict[str, str] | None = None) -> Stored:
        """The object of this name; a Refusal where there is none or its generation is another than the query says."""
        with self._lock:
            self._check(name, query or {})
            if name not in self.objects:
                raise Refusal(404, f"No such object: {self.bucket}/{name}")
            return self.objects[name]

    def resource(self, name: str) -> dict:
        """What the API tells of an object."""
        content, generation = self.objects[name]
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": self.bucket,
            "generation": str(generation),
            "metageneration": "1",
            "size": str(len(content)),
            "contentType": "application/octet-stream",
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": "2026-01-01T00:00:00.000Z",
        }

    def copy(self, source: str, target: str, *, move: bool) -> dict:
        """Copies an object, or moves it."""
        with self._lock:
            self.put(target, self.find(source).content)
            if move:
                del self.objects[source]
            return self.resource(target)

    def delete(self, name: str, query: dict[str, str]) -> None:
        """Deletes an object."""
        with self._lock:
            self.find(name, query)
            del self.objects[name]

    def listing(self, query: dict[str, str]) -> dict:
        """A page of objects, and of the names up to the delimiter where they have it after the prefix."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        with self._lock:
            found: dict[str, dict | None] = {}
            for name in self.names(prefix):
                if not query.get("startOffset", "") <= name or name >= query.get("endOffset", chr(0x10FFFF)):
                    continue
                head, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
                if cut:
                    found[prefix + head + cut] = None
                else:
                    found[name] = self.resource(name)
        after = base64.b64decode(query.get("pageToken", "")).decode()
        rest = [name for name in found if name > after]
        page = rest[: min(PAGE, int(query.get("maxResults", PAGE)))]
        answer = {
            "kind": "storage#objects",
            "prefixes": [name for name in page if found[name] is None],
            "items": [found[name] for name in page if found[name] is not None],
            "nextPageToken": base64.b64encode(page[-1].encode()).decode() if len(rest) > len(page) else None,
        }
        return {key: value for key, value in answer.items() if value}

    def begin_upload(self, name: str, query: dict[str, str]) -> str:
        """Where the parts of a resumable upload go."""
        with self._lock:
            token = f"upload{next(self._generations)}"
            self._uploads[token] = (name, query, bytearray())
            return f"{self.url}/upload/storage/v1/b/{self.bucket}/o?uploadType=resumable&upload_id={token}"

    def upload(self, token: str, content_range: str, body: bytes) -> dict | int:
        """Takes a part; the object if it was the last one, or else how many bytes are there."""
        with self._lock:
            name, query, content = self._uploads[token]
            start, total = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", content_range).groups()
            if start is not None and int(start) != len(content):
                raise Refusal(400, f"the part starts at {start}, but {len(content)} bytes are there")
            if total == "*" and len(body) % UPLOAD_UNIT:
                raise Refusal(400, f"a part of {len(body)} bytes, which is no multiple of {UPLOAD_UNIT}")
            content += body
            if total == "*" or len(content) < int(total):
                return len(content)
            del self._uploads[token]
            return self.put(name, content, query)

    def _check(self, name: str, query: dict[str, str]) -> None:
        generation = self.objects[name].generation if name in self.objects else 0
        if int(query.get("ifGenerationMatch", generation)) != generation:
            raise Refusal(412, "At least one of the pre-conditions you specified did not hold.")
        if "ifGenerationNotMatch" in query and int(query["ifGenerationNotMatch"]) == generation:
            raise Refusal(304, "Not Modified")
        if int(query.get("generation", generation)) != generation:
            raise Refusal(404, f"No such object: {self.bucket}/{name}#{query['generation']}")


def _answer(handler: BaseHTTPRequestHandler) -> None:
    body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    try:
        if refusal := handler.cloud.refuse(handler.command, unquote(handler.path)):
            raise refusal
        status, headers, content = _call(handler, body)
    except Refusal as refusal:
        status, headers = refusal.status, {}
        content = {"error": {"code": status, "message": str(refusal)}} if status >= 400 else b""
    raw = json.dumps(content).encode() if isinstance(content, dict) else content
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(raw))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(raw)


def _call(handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], dict | bytes]:
    """Status, headers and content of the answer."""
    cloud, address = handler.cloud, urlsplit(handler.path)
    query = {key: values[0] for key, values in parse_qs(address.query, keep_blank_values=True).items()}
    path = re.fullmatch(r"/(upload/|download/|)storage/v1/b/([^/]+)(/o(?:/([^/]+)(?:/(.+))?)?)?", address.path)
    if path is None:
        raise Refusal(404, f"Not Found: {handler.path}")
    kind, bucket, has_objects, name, action = path.groups()
    name, verb = unquote(name or ""), handler.command
    if unquote(bucket) != cloud.bucket:
        raise Refusal(404, "The specified bucket does not exist.")
    if kind == "upload/":
        return _uploaded(handler, query, body)
    match verb, action, bool(has_objects), bool(name):
        case "GET", None, False, _:
            cloud.asked["bucket"] += 1
            return 200, {}, {"kind": "storage#bucket", "name": cloud.bucket, "id": cloud.bucket, "location": "EU"}
        case "GET", None, True, False:
            cloud.asked["list"] += 1
            return 200, {}, cloud.listing(query)
        case "GET", None, True, True if query.get("alt") == "media":
            cloud.asked["download"] += 1
            return _downloaded(cloud.find(name, query), handler.headers.get("Range"))
        case "GET", None, True, True:
            cloud.asked["get"] += 1
            cloud.find(name, query)
            return 200, {}, cloud.resource(name)
        case "DELETE", None, True, True:
            cloud.asked["delete"] += 1
            cloud.delete(name, query)
            return 204, {}, b""
        case "POST", str(), True, True:
            move = action.startswith("moveTo/")
            target = re.fullmatch(r"(?:moveTo|(?:rewriteTo|copyTo)/b/[^/]+)/o/([^/]+)", action)
            cloud.asked["move" if move else "copy"] += 1
            made = cloud.copy(name, unquote(target[1]), move=move)
            return 200, {}, {"done": True, "resource": made} if action.startswith("rewriteTo") else made
    raise Refusal(501, f"the fake has no {verb} {handler.path}")


def _downloaded(stored: Stored, wanted: str | None) -> tuple[int, dict[str, str], bytes]:
    headers = {"x-goog-generation": str(stored.generation), "Content-Type": "application/octet-stream"}
    if wanted is None:
        return 200, headers, stored.content
    size = len(stored.content)
    first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted).groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= size:
        raise Refusal(416, "The requested range cannot be satisfied: not satisfiable")
    return 206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}, stored.content[start:stop]


def _uploaded(
    handler: BaseHTTPRequestHandler, query: dict[str, str], body: bytes
) -> tuple[int, dict[str, str], dict | bytes]:
    cloud, how = handler.cloud, query.get("uploadType")
    cloud.asked[f"upload {how}"] += 1
    if how == "media":
        return 200, {}, cloud.put(query["name"], body, query)
    if how == "multipart":
        boundary = re.search(r'boundary="?([^";]+)', handler.headers["Content-Type"])[1].encode()
        described, content = body.split(b"--" + boundary)[1:3]
        described, content = (re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1] for part in (described, content))
        name = json.loads(described)["name"]
        return 200, {}, cloud.put(name, re.sub(rb"\r?\n\Z", b"", content), query)
    if "upload_id" not in query:
        name = query.get("name") or json.loads(body)["name"]
        return 200, {"Location": cloud.begin_upload(name, query)}, b""
    done = cloud.upload(query["upload_id"], handler.headers["Content-Range"], body)
    if isinstance(done, dict):
        return 200, {}, done
    return 308, {"Range": f"bytes=0-{done - 1}"} if done else {}, b""
