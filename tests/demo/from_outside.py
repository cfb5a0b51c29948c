"""What a browser sends to the page, without one, and what it would not send."""

import io
import json
import struct
import uuid
import zlib

import httpx
import numpy as np
from PIL import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(kind, pixels=PIXELS, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def png_header(width, height):
    """A PNG that says it is of that size, and has hardly any pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


class Client:
    """Of one page."""

    def __init__(self, url):
        self.http = httpx.Client(base_url=url, timeout=120, verify=False, limits=httpx.Limits(max_connections=None))
        self.calls = {d["api_name"]: d["id"] for d in self.http.get("/config").json()["dependencies"]}

    def upload(self, content, name="it.png"):
        """What the page is given in the place of a file."""
        answer = self.http.post("/gradio_api/upload", files={"files": (name, content)})
        answer.raise_for_status()
        return {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}, "orig_name": name}

    def ask(self, call, *values):
        """The last thing that a call of the page shows; RuntimeError with what it says where it refuses."""
        session = uuid.uuid4().hex
        body = {"data": values, "fn_index": self.calls[call], "session_hash": session}
        joined = self.http.post("/gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            raise RuntimeError(joined.json()["detail"])
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as answer:
            for line in answer.iter_lines():
                event = json.loads(line.removeprefix("data:")) if line else {}
                if event.get("msg") == "process_completed":
                    if not event["success"]:
                        raise RuntimeError(event["output"]["error"])
                    return event["output"]["data"]
        raise RuntimeError("the page said nothing more")
