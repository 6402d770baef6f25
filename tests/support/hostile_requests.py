"""Requests that no honest client sends, made from a service's own OpenAPI document.

None may be answered with a 5xx, and every refusal is the problem that the document promises.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
import orjson
from pydantic import ValidationError

from shared.openapi import PROBLEM_TYPE, Problem

_TEXTS = (
    "\0",
    "a\0b",
    "",
    " ",
    "..",
    "é",
    "x" * 5000,
    "-1",
    "9" * 30,
    str(2**63),
    str(-(2**63) - 1),
    "1e9",
    "nan",
    "％",  # noqa: RUF001 - a full-width sign is meant
)
_INSTANTS = (
    "9999-12-31T23:59:59-23:00",
    "0001-01-01T00:00:00+23:00",
    "9999-12-31T23:00:00Z",
    "2016-12-31T23:59:60Z",
    "1800000000",
    "2027-01-15",
)
_VALUES: tuple[object, ...] = (
    *(None, True, 0, -1, 2**31, 2**63, 10**30, -(10**30), 1_800_000_000, 0.5, 1e300, [], {}, [None]),
    *_TEXTS,
    *_INSTANTS,
)
_PLAIN = {"region": "vn", "tenant_id": "acme", "idempotency-key": "k", "shard": "1", "seq": "1", "number": "1"}
_RAW_BODIES = (
    *(b"", b"{", b"null", b"[]", b"\xff\xfe", b'"\\ud800"', b"[" * 5000, b"1" * 5000),
    *(b'{"a": 1, "a": 2}', b'{"a": "\\u0000"}', b'{"a": NaN}', b'{"a": 1e999}'),
)


@dataclass
class _Request:
    method: str
    path: str
    in_path: dict[str, str]
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None

    def url(self) -> str:
        return self.path.format_map({name: quote(value, safe="") for name, value in self.in_path.items()})


async def find_faults(client: httpx.AsyncClient, document: dict[str, Any]) -> tuple[int, list[str]]:
    """How many requests were made, and those that were answered with a 5xx or with an error that is no problem."""
    faults, count = [], 0
    for request in _requests(document):
        count += 1
        answer = await client.request(
            request.method, request.url(), params=request.query, headers=request.headers, content=request.body
        )
        if answer.status_code >= 500 or (answer.is_error and not _is_problem(answer)):
            said = f"{request.in_path} {request.query} {request.headers} {(request.body or b'')[:200]!r}"
            faults.append(f"{request.method} {request.path}: {answer.status_code} to {said[:500]}")
    return count, faults


def _is_problem(answer: httpx.Response) -> bool:
    try:
        said = Problem.model_validate_json(answer.content)
    except ValidationError:
        return False
    return (answer.headers["content-type"], answer.status_code) == (PROBLEM_TYPE, said.status)


def _requests(document: dict[str, Any]) -> Iterator[_Request]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield from _of_operation(document, path, method.upper(), operation)


def _of_operation(document: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> Iterator[_Request]:
    places: dict[str, list[str]] = {"path": [], "query": [], "header": []}
    for parameter in operation.get("parameters", []):
        places[parameter["in"]].append(parameter["name"])
    plain = _Request(
        method,
        path,
        {name: _PLAIN.get(name, "one") for name in places["path"]},
        headers={name.lower(): "k" for name in places["header"]},
    )
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    made = None if body is None else _example(document, body)
    if made is not None:
        plain.headers["content-type"] = "application/json"
        plain.body = orjson.dumps(made)
    yield plain
    for text in (*_TEXTS, *_INSTANTS):
        for name in places["path"]:
            if text:
                yield _with(plain, in_path={**plain.in_path, name: text})
        for name in places["query"]:
            yield _with(plain, query={name: text})
    for name in places["header"]:
        for text in ("", " ", "x" * 500, "\x7f", "a\tb"):
            yield _with(plain, headers={**plain.headers, name.lower(): text})
    if isinstance(made, dict):
        for raw in _RAW_BODIES:
            yield _with(plain, body=raw)
        for name in made:
            for value in _VALUES:
                yield _with(plain, body=_dump({**made, name: value}))


def _with(request: _Request, **changes: Any) -> _Request:
    return _Request(**{**vars(request), **changes})


def _dump(value: object) -> bytes:
    import json  # noqa: PLC0415 - orjson writes no integer beyond 64 bits

    return json.dumps(value).encode()


def _example(document: dict[str, Any], schema: dict[str, Any]) -> Any:  # noqa: PLR0911 - a kind of schema each
    if "$ref" in schema:
        return _example(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    for name in ("anyOf", "oneOf", "allOf"):
        if name in schema:
            return _example(document, schema[name][0])
    if "enum" in schema or "const" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    if schema.get("type") == "object":
        return {name: _example(document, part) for name, part in schema.get("properties", {}).items()}
    if schema.get("type") == "array":
        return [_example(document, schema.get("items", {}))]
    if schema.get("format") == "date-time":
        return "2027-03-01T00:00:00Z"
    return {"integer": 5, "number": 5, "boolean": False, "string": "vn"}.get(schema.get("type", ""))
