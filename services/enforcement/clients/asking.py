"""Questions to a neighbour over HTTP. Whatever is not a clear answer is "out of reach": uncertainty, never a fact."""

from typing import Any, Literal, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from services.enforcement import metrics
from shared.errors import TransientFault
from shared.http_client import open_http_client

TIMEOUT_SECONDS = 5


class OutOfReachError(TransientFault):
    """No answer, a fault, or an answer of another shape."""


class UnusableAnswerError(OutOfReachError):
    """The neighbour answered, and what it says of this one item can't be used."""


class RefusedError(Exception):
    """The neighbour answered with a conflict (409): it does not agree to what was asked. `code` names the reason."""

    def __init__(self, reason: str, code: str = "") -> None:
        super().__init__(reason)
        self.code = code


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Problem(Answer):
    type: str = ""
    detail: str = ""


ModelT = TypeVar("ModelT", bound=Answer)
Method = Literal["GET", "POST"]


class Asker:
    """Asks one neighbour; `client` has its address as its base."""

    def __init__(self, name: str, client: httpx.AsyncClient) -> None:
        self.name = name
        self._client = client

    async def ask(
        self,
        model: type[ModelT],
        method: Method,
        path: str,
        *,
        query: dict[str, str | int] | None = None,
        body: dict[str, Any] | None = None,
    ) -> ModelT:
        """Raises OutOfReachError, RefusedError."""
        return self.read(model, await self.send(method, path, query=query, body=body))

    async def send(
        self,
        method: Method,
        path: str,
        *,
        query: dict[str, str | int] | None = None,
        body: dict[str, Any] | None = None,
    ) -> httpx.Response:
        try:
            return await self._client.request(method, path, params=query, json=body)
        except httpx.HTTPError as error:
            raise self._count(OutOfReachError(f"{self.name} is out of reach: {error!r}")) from error

    def read(self, model: type[ModelT], response: httpx.Response) -> ModelT:
        if response.status_code == httpx.codes.CONFLICT and is_problem(response):
            raise _refusal(response)
        if not response.is_success:
            raise self._count(
                OutOfReachError(f"{self.name} answered {response.status_code} to {response.request.url.path}")
            )
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            raise self._count(UnusableAnswerError(f"{self.name} gave no usable answer: {describe(error)}")) from error

    def _count(self, error: OutOfReachError) -> OutOfReachError:
        metrics.UNANSWERED.labels(self.name).inc()
        return error


def describe(error: ValidationError) -> str:
    """Which fields are wrong, without their values."""
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3])


def is_problem(response: httpx.Response) -> bool:
    return str(response.headers.get("content-type", "")).startswith("application/problem+json")


def _refusal(response: httpx.Response) -> RefusedError:
    try:
        problem = _Problem.model_validate_json(response.content)
    except ValidationError:
        return RefusedError("conflict")
    code = problem.type.rpartition(":")[2]
    return RefusedError(f"{code}: {problem.detail}"[:500], code)


def open_client(url: str) -> httpx.AsyncClient:
    return open_http_client(TIMEOUT_SECONDS, url)
