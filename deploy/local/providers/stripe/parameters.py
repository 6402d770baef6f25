"""Stripe's form-encoded parameters, read as nested values and held against the shapes that Stripe publishes.

The shapes are the SDK's own request types, which are generated from Stripe's OpenAPI document.
"""

import importlib
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, get_args, get_origin
from urllib.parse import parse_qsl

from deploy.local.providers.store import Document
from deploy.local.providers.stripe.errors import ApiError

# What the SDK's request types name but only its own machinery needs.
_OUTSIDE = {"StripeContext": object, "Mapping": Mapping}
_OPTIONS = frozenset(
    {
        "api_key",
        "stripe_version",
        "stripe_account",
        "stripe_context",
        "max_network_retries",
        "idempotency_key",
        "content_type",
        "headers",
    }
)


def parse(text: str) -> Document:
    """Read `a[b][0][c]=v` as {"a": {"b": [{"c": "v"}]}}; every leaf is a string."""
    tree: Document = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        head, *rest = name.replace("]", "").split("[")
        _place(tree, [head, *rest], value, name)
    return {key: _settle(value) for key, value in tree.items()}


def _place(tree: Document, path: list[str], value: str, name: str) -> None:
    for step in path[:-1]:
        tree = tree.setdefault(step, {})
        if not isinstance(tree, dict):
            raise ApiError.invalid(f"Invalid parameter: {name}", param=name)
    last = path[-1]
    tree[last or str(len(tree))] = value


def _settle(value: Any) -> Any:  # noqa: ANN401 - whatever a form nests
    """Turn dictionaries whose keys are 0, 1, 2 … into lists, all the way down."""
    if not isinstance(value, dict):
        return value
    settled = {key: _settle(item) for key, item in value.items()}
    if settled and list(settled) == [str(number) for number in range(len(settled))]:
        return list(settled.values())
    return settled


@cache
def _shape(name: str) -> Mapping[str, Any]:
    """The published parameters of one call, by the SDK's name for them: "checkout._session_create_params.…"."""
    module, _, kind = name.rpartition(".")
    shape = getattr(importlib.import_module(f"stripe.params.{module}"), kind)
    hints = typing.get_type_hints(shape, localns=_OUTSIDE)
    return {field: hint for field, hint in hints.items() if field not in _OPTIONS}


def check(parameters: Document, shape: str) -> None:
    """Raise ApiError for a parameter that Stripe does not have, or a value that it does not take."""
    _check_fields(parameters, _shape(shape), "")


def _check_fields(parameters: Document, fields: Mapping[str, Any], prefix: str) -> None:
    for name, value in parameters.items():
        path = f"{prefix}[{name}]" if prefix else name
        if name not in fields:
            raise ApiError.invalid(f"Received unknown parameter: {path}", param=path, code="parameter_unknown")
        _check_value(value, fields[name], path)


def _check_value(value: Any, hint: Any, path: str) -> None:  # noqa: ANN401 - a type and what should be of it
    options = list(_options(hint))
    if isinstance(value, dict):
        shapes = [option for option in options if hasattr(option, "__total__")]  # a TypedDict, old or new
        if shapes:
            _check_fields(value, typing.get_type_hints(shapes[0], localns=_OUTSIDE), path)
        elif not any(get_origin(option) in {dict, Mapping} or option is dict for option in options):
            raise ApiError.invalid(f"Invalid value for {path}: must not be a hash", param=path)
        return
    if isinstance(value, list):
        items = [get_args(option)[0] for option in options if get_origin(option) is list]
        if not items:
            raise ApiError.invalid(f"Invalid array for {path}", param=path)
        for number, item in enumerate(value):
            _check_value(item, items[0], f"{path}[{number}]")
        return
    _check_leaf(value, options, path)


def _check_leaf(value: str, options: list[Any], path: str) -> None:
    kinds = {option for option in options if isinstance(option, type)}
    words = [word for option in options if get_origin(option) is Literal for word in get_args(option)]
    # The SDK types an enumeration as its words or str, and what can be cleared as "" or str.
    if value in words or (str in kinds and not any(words)):
        return
    if int in kinds and value.removeprefix("-").isdecimal():
        return
    if bool in kinds and value in {"true", "false"}:
        return
    if int in kinds:
        raise ApiError.invalid(f"Invalid integer: {value}", param=path, code="parameter_invalid_integer")
    if bool in kinds:
        raise ApiError.invalid(f"Invalid boolean: {value}", param=path)
    if not words:
        raise ApiError.invalid(f"Invalid value for {path}", param=path)
    raise ApiError.invalid(f"Invalid {path}: must be one of {', '.join(map(str, words[:40]))}", param=path)


def _options(hint: Any) -> "typing.Iterator[Any]":  # noqa: ANN401 - a type
    """The alternatives of a type, without NotRequired and without unions."""
    if get_origin(hint) in {typing.Union, typing.NotRequired} or type(hint).__name__ == "UnionType":
        for part in get_args(hint):
            yield from _options(part)
        return
    yield hint
