"""How Stripe pages through its lists: newest first, from after an object on, so many at a time."""

from deploy.local.providers.store import Document
from deploy.local.providers.stripe.errors import ApiError

_LISTED = 10
_LISTED_MAX = 100


def is_created_within(created: int, bounds: Document | str) -> bool:
    """Whether an object is of the second, or within the bounds (gt, gte, lt, lte), that a list asks for."""
    if isinstance(bounds, str):
        return created == int(bounds)
    return (
        created > int(bounds.get("gt", -1))
        and created >= int(bounds.get("gte", 0))
        and created < int(bounds.get("lt", 2**62))
        and created <= int(bounds.get("lte", 2**62))
    )


def start_after(kind: str, found: list[Document], object_id: str | None) -> list[Document]:
    """What comes after an object of the list. Raises ApiError where that is not in it."""
    if object_id is None:
        return found
    ids = [body["id"] for body in found]
    if object_id not in ids:
        raise ApiError.missing(kind, object_id, param="starting_after", status=400)
    return found[ids.index(object_id) + 1 :]


def read_limit(parameters: Document) -> int:
    """How many objects a page has. Raises ApiError outside 1 to 100."""
    text = str(parameters.get("limit", _LISTED))
    if not text.isdecimal() or not 1 <= int(text) <= _LISTED_MAX:
        raise ApiError.invalid(f"Invalid limit: {text}; it is 1 to {_LISTED_MAX}", param="limit")
    return int(text)
