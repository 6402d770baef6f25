"""The stand-ins' pages: plain HTML forms that work without scripts."""

from typing import Any
from urllib.parse import parse_qsl

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

_PAGES = Environment(
    loader=PackageLoader("deploy.local.providers", "templates"), autoescape=True, undefined=StrictUndefined
)


def show(template: str, *, status: int = 200, **values: Any) -> HTMLResponse:  # noqa: ANN401 - what templates take
    return HTMLResponse(_PAGES.get_template(template).render(**values), status_code=status)


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a submitted form."""
    return dict(parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True))
