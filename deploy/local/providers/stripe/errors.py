"""Errors as Stripe's API answers them."""

from typing import Any

from starlette.responses import JSONResponse, Response


class ApiError(Exception):
    """One error answer: {"error": {"type", "code", "message", "param", …}} with its HTTP status."""

    def __init__(self, status: int, kind: str, message: str, **fields: Any) -> None:  # noqa: ANN401 - JSON
        super().__init__(message)
        self.status = status
        self.error = {"type": kind, "message": message} | {
            name: value for name, value in fields.items() if value is not None
        }

    @classmethod
    def invalid(cls, message: str, *, param: str | None = None, code: str | None = None) -> "ApiError":
        return cls(400, "invalid_request_error", message, param=param, code=code)

    @classmethod
    def missing(cls, kind: str, object_id: str, *, param: str = "id", status: int = 404) -> "ApiError":
        message = f"No such {kind}: '{object_id}'"
        return cls(status, "invalid_request_error", message, param=param, code="resource_missing")

    def answer(self) -> Response:
        return JSONResponse({"error": self.error}, status_code=self.status)
