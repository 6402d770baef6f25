"""Questions to the services over HTTP, with answers or a line that says what to do."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from deploy.cli.addresses import Addresses
from deploy.cli.faults import FOUND, UNAVAILABLE, USAGE, CommandError

if TYPE_CHECKING:
    import httpx

TIMEOUT_SECONDS = 30.0
UNAVAILABLE_STATUS = (502, 503, 504)
# As shared/events/cloudevents.py has them.
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class ProblemError(CommandError):
    """A service refused: `status` and `code` (of its problem+json) tell programs why."""

    def __init__(self, service: str, status: int, code: str, detail: str) -> None:
        exit_code = UNAVAILABLE if status in UNAVAILABLE_STATUS else FOUND
        super().__init__(f"{service} refused ({status} {code}): {detail}", exit_code)
        self.status = status
        self.code = code


class Services:
    """The HTTP APIs of a stack."""

    def __init__(self, addresses: Addresses, client: "httpx.Client") -> None:
        self._addresses = addresses
        self._client = client

    def get(self, service: str, path: str, parameters: Mapping[str, str | int] | None = None) -> dict[str, Any]:
        return self._ask("GET", service, path, params=dict(parameters or {}))

    def put(self, service: str, path: str, body: object) -> dict[str, Any]:
        return self._ask("PUT", service, path, json=body)

    def post(self, service: str, path: str, body: object, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        return self._ask("POST", service, path, json=body, headers=dict(headers or {}))

    def _ask(self, method: str, service: str, path: str, **content: Any) -> dict[str, Any]:  # noqa: ANN401 - httpx's
        import httpx

        address = self._addresses.services[service]
        url = address + path
        try:
            answer = self._client.request(method, url, **content)
        except httpx.ConnectError as error:
            raise CommandError(
                f"{service} does not answer at {address}: start the stack with `tollkeeper up`, "
                f"or set TOLLKEEPER_{service.upper()}_URL to where it runs",
                UNAVAILABLE,
            ) from error
        except httpx.TransportError as error:
            raise CommandError(f"{service} at {url}: {error!r}; `tollkeeper status` tells more", UNAVAILABLE) from error
        except httpx.InvalidURL as error:
            raise CommandError(f"{url!r} is no address ({error}); see TOLLKEEPER_{service.upper()}_URL") from error
        return _read(service, url, answer)


def _read(service: str, url: str, answer: "httpx.Response") -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise CommandError(
            f"{url} answered {answer.status_code} with something that is no JSON object: is this {service}?",
            UNAVAILABLE,
        )
    if answer.is_success:
        return body
    code = str(body.get("type", "")).rpartition(":")[2] or "problem"
    detail = str(body.get("detail") or answer.reason_phrase)
    errors = body.get("errors")
    if isinstance(errors, list):
        detail += "".join(f"; {item.get('where')}: {item.get('what')}" for item in errors if isinstance(item, dict))
    raise ProblemError(service, answer.status_code, code, detail)


@contextmanager
def open_services(addresses: Addresses | None = None) -> Iterator[Services]:
    """The services of the environment's stack. Proxies of the environment are not asked for loopback's sake."""
    import httpx

    with httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
        yield Services(addresses or Addresses.read(), client)


def segment(text: str) -> str:
    """A path segment, quoted: ids may hold slashes."""
    return quote(text, safe="")


def split_account(text: str) -> tuple[str, str]:
    """Read REGION/TENANT. Raises CommandError."""
    region, slash, tenant = text.partition("/")
    if not slash or not region or not tenant or "/" in tenant:
        raise CommandError(f"{text!r} is no account: write REGION/TENANT, such as vn/acme", USAGE)
    if _REGION.fullmatch(region) is None:
        raise CommandError(f"{region!r} is no region: small letters, digits and dashes, such as vn", USAGE)
    if _TENANT.fullmatch(tenant) is None:
        raise CommandError(
            f"{tenant!r} is no tenant: up to 64 ASCII letters, digits, dots, dashes and underscores, such as acme",
            USAGE,
        )
    return region, tenant
