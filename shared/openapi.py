"""What an OpenAPI document says of errors: every answer that is none of success is a problem (RFC 9457)."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, TypeAdapter

PROBLEM_TYPE = "application/problem+json"
# FastAPI's own shape of invalid requests, which no service sends.
_REPLACED = ("HTTPValidationError", "ValidationError")


class InvalidField(BaseModel):
    """`where` is the path of a field (`body.amount_micros`), `what` is wrong with it."""

    where: str
    what: str


class Problem(BaseModel):
    """RFC 9457: `type` names the kind (`urn:tollkeeper:problem:<code>`), `detail` says what to do about it.

    A kind may have further members. An invalid request has `errors`, a member each.
    """

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    errors: list[InvalidField] | None = None


def document_problems(api: FastAPI) -> None:
    """Let the application's OpenAPI document describe its errors as they are sent."""
    original = api.openapi

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            _replace_errors(original())
        assert api.openapi_schema is not None
        return api.openapi_schema

    api.openapi = openapi  # type: ignore[method-assign]  # FastAPI documents this way


def _replace_errors(document: dict[str, Any]) -> None:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in _REPLACED:
        schemas.pop(name, None)
    schema = TypeAdapter(Problem).json_schema(ref_template="#/components/schemas/{model}")
    schemas |= schema.pop("$defs") | {"Problem": schema}
    components["responses"] = {
        "InvalidRequest": _response("The request does not have the documented shape."),
        "Problem": _response("It was refused or failed: `type` says how, `detail` what to do."),
    }
    for path in document.get("paths", {}).values():
        for operation in path.values():
            responses = operation["responses"]
            if "422" in responses:
                responses["422"] = {"$ref": "#/components/responses/InvalidRequest"}
            responses["default"] = {"$ref": "#/components/responses/Problem"}


def _response(description: str) -> dict[str, Any]:
    return {"description": description, "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
