"""What VNPay writes and reads: dates in Vietnam, and the fields of its transaction API in the order of their hash."""

from datetime import datetime
from zoneinfo import ZoneInfo

ZONE = ZoneInfo("Asia/Ho_Chi_Minh")
DATE = "%Y%m%d%H%M%S"
QUERY = "RequestId|Version|Command|TmnCode|TxnRef|TransactionDate|CreateDate|IpAddr|OrderInfo"
REFUND = (
    "RequestId|Version|Command|TmnCode|TransactionType|TxnRef|Amount|TransactionNo|TransactionDate|CreateBy|"
    "CreateDate|IpAddr|OrderInfo"
)
REFUND_ANSWER = (
    "ResponseId|Command|ResponseCode|Message|TmnCode|TxnRef|Amount|BankCode|PayDate|TransactionNo|TransactionType|"
    "TransactionStatus|OrderInfo"
)
QUERY_ANSWER = f"{REFUND_ANSWER}|PromotionCode|PromotionAmount"
# What a request to the transaction API may leave empty.
_OPTIONAL = frozenset({"TransactionNo"})


def read_date(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, DATE).replace(tzinfo=ZONE)
    except ValueError:
        return None


def is_complete(fields: dict[str, str], names: str) -> bool:
    """Whether a request has what it must have, in the form that it must have."""
    missing = [name for name in names.split("|") if name not in _OPTIONAL and not fields.get(f"vnp_{name}")]
    dates = [fields.get(f"vnp_{name}", "") for name in ("CreateDate", "TransactionDate")]
    return (
        not missing
        and fields["vnp_Version"] == "2.1.0"
        and len(fields["vnp_RequestId"]) <= 32
        and all(read_date(date) is not None for date in dates)
        and fields.get("vnp_Amount", "0").isdecimal()
        and fields.get("vnp_TransactionType", "02") in {"02", "03"}
    )
