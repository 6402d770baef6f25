"""How events are read: whoever reads takes what it knows and passes over the rest (ADR 14).

A contract is strict for who publishes it (`extra="forbid"`, closed vocabularies). A reader passes over fields and
CloudEvents extensions that it does not know, at any depth, and over events of an unknown type, which are counted. Only
a missing or senseless field that it needs makes a record dead.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, TypeVar, get_args

from prometheus_client import Counter
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from shared.errors import RecordError
from shared.log import get_logger

logger = get_logger(__name__)

_Model = TypeVar("_Model", bound=BaseModel)
_Union = TypeVar("_Union")

UNKNOWN_TYPES = Counter(
    "tollkeeper_unknown_event_types_total",
    "Events passed over because this version does not know their type.",
    ["topic"],
)
PROBLEMS_MAX = 3

# The validation context of a reader: what only a publisher must keep is not checked.
READING: Final = "reading"
# Types that were logged already, so that a stream of them writes one line.
_logged: set[str] = set()
_LOGGED_MAX = 100


class Read(BaseModel):
    """Base of a reader's own model, which names only the fields that the reader needs."""

    model_config = ConfigDict(frozen=True, extra="ignore")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words of a Literal as a text: a publisher may use no other, a reader takes what a newer publisher says."""

    words: Any

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "enum": list(get_args(self.words))}

    def _check(self, word: str, info: core_schema.ValidationInfo[Any]) -> str:
        if info.context is not READING and word not in get_args(self.words):
            raise ValueError(f"must be one of {', '.join(get_args(self.words))}")
        return word


def read_as(model: type[_Model], document: object) -> _Model:
    """The document as its reader needs it. Raises RecordError with everything that is missing."""
    try:
        return model.model_validate(document, extra="ignore", context=READING)
    except ValidationError as error:
        raise RecordError("invalid event", describe(error)) from error


def read_union(adapter: TypeAdapter[_Union], document: object) -> _Union:
    """As `read_as`, for a union of models. Raises RecordError."""
    try:
        return adapter.validate_python(document, extra="ignore", context=READING)
    except ValidationError as error:
        raise RecordError("invalid event", describe(error)) from error


def read_json(model: type[_Model], document: bytes | str) -> _Model:
    """A document that we stored or published ourselves. Raises ValueError (pydantic's ValidationError is one)."""
    return model.model_validate_json(document, extra="ignore", context=READING)


def is_known_type(envelope: dict[str, Any], known: Collection[str], topic: str) -> bool:
    """Whether the event is of a type in `known`; another is counted. Raises RecordError where there is no type."""
    kind = envelope.get("type")
    if not isinstance(kind, str) or not kind:
        raise RecordError("invalid event", "missing: type" if kind is None else "type: must be a text")
    if kind in known:
        return True
    UNKNOWN_TYPES.labels(topic).inc()
    if kind not in _logged and len(_logged) < _LOGGED_MAX:
        _logged.add(kind)
        logger.warning("event.unknown_type", topic=topic, type=kind[:100], id=str(envelope.get("id"))[:200])
    return False


def describe(error: ValidationError) -> str:
    """The problems of a validation in one line, without the values: all that is missing, then the first others."""
    problems = error.errors()
    missing = [_place(item) for item in problems if item["type"] == "missing"]
    others = [f"{_place(item)}: {item['msg']}" for item in problems if item["type"] != "missing"]
    parts = [f"missing: {', '.join(missing)}"] if missing else []
    parts += others[:PROBLEMS_MAX]
    if len(others) > PROBLEMS_MAX:
        parts.append(f"{len(others) - PROBLEMS_MAX} more problems")
    return "; ".join(parts)


def _place(item: ErrorDetails) -> str:
    return ".".join(map(str, item["loc"])) or "event"
