"""Stripe's own rules for requests (data/stripe_requests.json), applied to what our client really sends."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

_RULES = json.loads((Path(__file__).parent / "data" / "stripe_requests.json").read_text("utf-8"))
_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_KEY = re.compile(r"\[([^\[\]]*)\]")
# Stated by Stripe's guide to metadata, not by the document.
_METADATA_KEY_MAX, _METADATA_VALUE_MAX, _METADATA_KEYS_MAX = 40, 500, 50

Tree = str | dict[str, Any]


def find_endpoint(method: str, path: str) -> str:
    """The endpoint that a request goes to, as the excerpt names it."""
    for endpoint in _RULES["endpoints"]:
        known_method, template = endpoint.split(" ")
        pattern = re.sub(r"\{\w+\}", r"[A-Za-z0-9_]+", template)
        if method == known_method and re.fullmatch(pattern, path):
            return str(endpoint)
    raise AssertionError(f"{method} {path} is no endpoint of the excerpt")


def decode_form(text: str) -> dict[str, Any]:
    """`a[b]=1&c[0]=2&d[]=3` as a tree; lists are objects with numbers for names."""
    tree: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text)):
        found = _NAME.fullmatch(name)
        assert found is not None, f"{name} is no parameter's name"
        path = [found.group(1), *_KEY.findall(found.group(2))]
        place = tree
        for step in path[:-1]:
            place = place.setdefault(step, {})
        last = path[-1] or str(len(place))
        assert last not in place, f"{name} stands twice"
        place[last] = value
    return tree


def problems_of(endpoint: str, form: str) -> list[str]:
    """What Stripe's document has against a request, a sentence each."""
    return _problems(_RULES["endpoints"][endpoint], decode_form(form), "")


def _problems(rule: dict[str, Any], value: Tree, name: str) -> list[str]:
    if rule.get("cut"):
        return [f"{name} is cut from the excerpt: extend it"]
    if "anyOf" in rule:
        options = [_problems(option, value, name) for option in rule["anyOf"]]
        return min(options, key=len)
    kind = rule.get("type")
    if kind == "object":
        return _object_problems(rule, value, name)
    if kind == "array":
        if not isinstance(value, dict) or sorted(value, key=int) != [str(at) for at in range(len(value))]:
            return [f"{name} is no list"]
        return [found for key, item in value.items() for found in _problems(rule["items"], item, f"{name}[{key}]")]
    return [f"{name} is no single value"] if isinstance(value, dict) else _text_problems(rule, value, name)


def _object_problems(rule: dict[str, Any], value: Tree, name: str) -> list[str]:
    if isinstance(value, str):
        return [f"{name} is no object"]
    properties, others = rule.get("properties", {}), rule.get("additionalProperties")
    found = [f"{name}.{key} is missing" for key in rule.get("required") or () if key not in value]
    if name.rpartition(".")[2] == "metadata":
        found += _metadata_problems(value)
    for key, item in value.items():
        at = f"{name}.{key}".removeprefix(".")
        known = properties.get(key, others)
        found += [f"{at} is unknown"] if known is None else _problems(known, item, at)
    return found


def _metadata_problems(value: dict[str, Any]) -> list[str]:
    long = [key for key, item in value.items() if len(key) > _METADATA_KEY_MAX or len(item) > _METADATA_VALUE_MAX]
    many = ["metadata has too many keys"] if len(value) > _METADATA_KEYS_MAX else []
    return many + [f"metadata.{key} is too long" for key in long]


def _text_problems(rule: dict[str, Any], value: str, name: str) -> list[str]:
    kind = rule.get("type")
    if "enum" in rule and value not in rule["enum"]:
        return [f"{name} is none of its values"]
    if len(value) > rule.get("maxLength", 10**6):
        return [f"{name} is too long"]
    if kind == "integer" and not re.fullmatch(r"-?\d{1,18}", value, re.ASCII):
        return [f"{name} is no integer"]
    if kind == "boolean" and value not in ("true", "false"):
        return [f"{name} is no boolean"]
    if rule.get("format") == "currency" and not re.fullmatch(r"[a-z]{3}", value, re.ASCII):
        return [f"{name} is no currency in lower case"]
    return []
