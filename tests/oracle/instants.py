"""RFC 3339 timestamps as integers of microseconds since the epoch, read by hand."""

import re
from datetime import date

_TIMESTAMP = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:([Zz])|([+-])(\d\d):(\d\d))", re.ASCII
)
_EPOCH_DAY = date(1970, 1, 1).toordinal()


def instant(text: object) -> int:
    """Raises ValueError for what is no RFC 3339 timestamp with a zone. Digits below a microsecond are cut off."""
    found = _TIMESTAMP.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{str(text)[:60]!r} is no timestamp")
    year, month, day, hour, minute, second = (int(found.group(number)) for number in range(1, 7))
    if hour > 23 or minute > 59 or second > 60:
        raise ValueError(f"{found.group(0)!r} is no possible time")
    days = date(year, month, day).toordinal() - _EPOCH_DAY
    micros = int((found.group(7) or "0").ljust(6, "0")[:6])
    offset_minutes = 0
    if found.group(8) is None:
        zone_hour, zone_minute = int(found.group(10)), int(found.group(11))
        if zone_hour > 23 or zone_minute > 59:
            raise ValueError(f"{found.group(0)!r} has no possible zone")
        offset_minutes = (zone_hour * 60 + zone_minute) * (-1 if found.group(9) == "-" else 1)
    seconds = days * 86400 + hour * 3600 + minute * 60 + second - offset_minutes * 60
    # Of the seconds numbered 60 there are those that end a month in Greenwich; they count as the first of the next.
    if second == 60 and (seconds % 86400 or date.fromordinal(seconds // 86400 + _EPOCH_DAY).day != 1):
        raise ValueError(f"{found.group(0)!r} is no leap second")
    return seconds * 1_000_000 + micros
