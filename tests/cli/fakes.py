"""Small HTTP servers that answer like the services, and a command line called in this process."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Body = Any
Answer = tuple[int, Body]
Route = Callable[["Asked"], Answer]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came: path without query, header names in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Body


@dataclass
class FakeService:
    """Answers `routes` (method and path) and remembers what it was `asked`; anything else is a 404 problem."""

    routes: dict[tuple[str, str], Route] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def on(self, method: str, path: str, answer: Body | Route, status: int = 200) -> None:
        self.routes[method, path] = answer if callable(answer) else lambda _asked: (status, answer)

    def __enter__(self) -> Self:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                path, _, query = self.path.partition("?")
                content = self.rfile.read(length)
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, path, query, headers, json.loads(content) if content else None)
                service.asked.append(asked)
                route = service.routes.get((self.command, path))
                missing = {"type": "urn:tollkeeper:problem:not-found", "title": "Not Found", "detail": "there is none"}
                status, body = route(asked) if route is not None else (404, missing)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = _answer  # noqa: N815 - the names that http.server calls

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its base's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
