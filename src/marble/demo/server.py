"""Who may read and send what: the page's own addresses, and files of its own folder alone."""

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect

from marble import environment
from marble.demo.limits import Limits
from marble.demo.model import Model
from marble.errors import InputError

EXACT = frozenset(
    {"/", "/config", "/config/", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json", "/pwa_icon"}
    | {f"/gradio_api/{name}" for name in ("info", "app_id", "startup-events", "reset", "cancel")}
    | {
        f"/gradio_api/{name}"
        for name in ("run/predict", "queue/join", "queue/data", "upload", "upload_progress", "theme.css")
    }
    | {f"/gradio_api/{name}/" for name in ("info", "app_id", "reset")}
)
PREFIXES = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/")
FILES = "/gradio_api/file="
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Nothing is told to other hosts."""


class OnlyThePage:
    """ASGI around Gradio's: of its many addresses those that the page uses, and of these no more than the limits."""

    def __init__(self, app: Any, folder: Path, limits: Limits) -> None:
        self.app, self.folder, self.limits = app, folder.resolve(), limits

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            return
        refused = self.refused(scope) if scope["type"] == "http" else None
        if refused is None:
            with contextlib.suppress(ClientDisconnect):  # whoever uploaded has gone
                await self.app(scope, receive, send)
            return
        status, reason = refused
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": f'{{"detail": "{reason}"}}'.encode()})

    def refused(self, scope: Any) -> tuple[int, str] | None:
        """The status and reason of a refusal, or None."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if not self._is_open(path):
            return 404, "there is no such page"
        if scope["method"] not in ("GET", "HEAD"):
            return self._refused_body(dict(scope["headers"]), is_upload=path == "/gradio_api/upload")
        return None

    def _is_open(self, path: str) -> bool:
        if path.startswith(FILES):
            return self._is_ours(path.removeprefix(FILES)) and self._is_ours(unquote(path.removeprefix(FILES)))
        return path in EXACT or (path.startswith(PREFIXES) and ".." not in unquote(path))

    def _is_ours(self, name: str) -> bool:
        """Whether a name is that of a file in the page's folder, where links and dots lead too."""
        return "\0" not in name and Path(name).is_absolute() and Path(name).resolve().is_relative_to(self.folder)

    def _refused_body(self, headers: dict[bytes, bytes], *, is_upload: bool) -> tuple[int, str] | None:
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            return 411, "say how long what you send is"
        most = self.limits.max_bytes
        if int(length) > most + 2**16:  # a form's own words
            return 413, f"the upload has more than {most / 2**20:g} MB: make it smaller"
        if is_upload and _size_of(self.folder) > self.limits.max_stored_bytes:
            return 503, "too much was uploaded lately: try again in some minutes"
        return None


@contextlib.contextmanager
def serving(model: Model, *, host: str, port: int) -> Iterator[str]:
    """Serves the page of a model until ``with`` ends; gives its address. InputError where the port can't be had."""
    check_port(host, port)
    with (
        tempfile.TemporaryDirectory(prefix="marble-demo-") as name,
        environment.changed(
            QUIET | {"GRADIO_TEMP_DIR": name}  # read when Gradio's components are made
        ),
    ):
        from marble.demo import page, pictures

        folder = Path(name).resolve()
        blocks = page.Page(model, folder).blocks
        blocks.queue(max_size=model.limits.max_queue, api_open=False, default_concurrency_limit=1)
        _, url, _ = blocks.launch(
            server_name=host,
            server_port=port,
            theme=page.theme(),
            css=pictures.CSS,
            max_file_size=model.limits.max_bytes,
            app_kwargs={"middleware": [Middleware(OnlyThePage, folder=folder, limits=model.limits)]},
            footer_links=[],
            blocked_paths=[],
            **dict.fromkeys(("share", "inbrowser", "ssr_mode", "pwa", "mcp_server", "run_history"), False),
            **dict.fromkeys(("enable_monitoring", "show_error"), False),
            **dict.fromkeys(("prevent_thread_lock", "quiet"), True),
        )
        try:
            yield url
        finally:
            blocks.close(verbose=False)


def check_port(host: str, port: int) -> None:
    """InputError where nothing can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"host {host}, port {port} can't be listened on ({reason}): give another") from error


def _size_of(folder: Path) -> int:
    """The bytes of its files, of which some may be deleted meanwhile."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += os.stat(os.path.join(parent, name)).st_size
    return size
