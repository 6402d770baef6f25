"""VNPay's signatures, against vectors that another tool (openssl) made, and against every altered byte."""

from urllib.parse import parse_qsl, quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.payment.providers import BadSignature
from services.payment.providers.vnpay import read_callback
from services.payment.rules.facts import Money
from services.payment.rules.vnpay_messages import (
    QUERY_ANSWER_NAMES,
    QUERY_NAMES,
    REFUND_ANSWER_NAMES,
    REFUND_NAMES,
    PayRequest,
    pay_fields,
)
from services.payment.rules.vnpay_signature import (
    NotVnpayError,
    is_piped_signed,
    is_signed,
    read_query,
    sign_piped,
    sign_query,
)
from shared.clock import parse_instant

SECRET = "SECRETKEYONE"
REFERENCE = "0f8fad5bd9cb569fa16570867728950e"
ORDER_ID = "0f8fad5b-d9cb-569f-a165-70867728950e"

# The vector of a public callback.
PUBLISHED = (
    "vnp_Amount=1000000&vnp_BankCode=NCB&vnp_BankTranNo=VNP14422574&vnp_CardType=ATM"
    "&vnp_OrderInfo=Thanh+toan+don+hang+2024-05-21T02%3A17%3A31.249Z&vnp_PayDate=20240521091806&vnp_ResponseCode=00"
    "&vnp_TmnCode=TEST_TMN_CODE&vnp_TransactionNo=14422574&vnp_TransactionStatus=00&vnp_TxnRef=1716257871703"
)
PUBLISHED_SIGNATURE = (
    "649982421beb422556a1374713c74e58e716ecbd05007c0c0e1f7effdfaf361d"
    "bf146889ca446139afe11b9954c4d5c486e99e3b86fcfab6957f29eb0be72895"
)

CALLBACK = (
    "vnp_Amount=1000000&vnp_BankCode=NCB&vnp_OrderInfo={}&vnp_ResponseCode=00&vnp_TmnCode=DEMOV210"
    f"&vnp_TransactionNo=14422574&vnp_TransactionStatus=00&vnp_TxnRef={REFERENCE}&vnp_SecureHash="
)
WITH_PLUS = CALLBACK.format("Thanh+toan+%2B+phi") + (
    "fea6a60558f0ec342c33c47cde8b7df736e497ac6b5ec6dd2586e9cb79e7bd1d"
    "8e9dc39b50858759f4d38c87e26c349b49c653d84f0ab4b835020275444ec7cb"
)
WITH_PERCENT = CALLBACK.format("Thanh%20toan%20%2B%20phi") + (
    "0de77dd1ca29c69349d44df020c67a75c9f10298d9d8d930a18cfce386f49969"
    "97d282714cac285e12ebd0f010386a4de2160cf003fbd5ccfb8dc0f395cb4a22"
)


def test_the_published_callback_verifies() -> None:
    fields = read_query(f"{PUBLISHED}&vnp_SecureHash={PUBLISHED_SIGNATURE}")
    assert is_signed(fields, ["test_secret"])
    assert not is_signed(fields, ["test_secre", "TEST_SECRET", ""])
    unsigned = {name: value for name, value in fields.items() if name != "vnp_SecureHash"}
    assert sign_query(unsigned, "test_secret") == f"{PUBLISHED}&vnp_SecureHash={PUBLISHED_SIGNATURE}"


@pytest.mark.parametrize("query", [WITH_PLUS, WITH_PERCENT])
def test_a_space_may_be_signed_in_either_spelling(query: str) -> None:
    assert is_signed(read_query(query), [SECRET])
    # However the space is spelled on the way: what is signed is told by the signature.
    assert is_signed(read_query(query.replace("%20", "+")), [SECRET])
    assert read_callback(query, [SECRET], 0).order_id == ORDER_ID


def test_any_of_several_secrets_may_have_signed_and_the_first_signs() -> None:
    assert is_signed(read_query(WITH_PLUS), ["new", SECRET])
    assert not is_signed(read_query(WITH_PLUS), ["new", "newer"])
    assert not is_signed(read_query(WITH_PLUS), [])


def test_an_empty_secret_opens_nothing() -> None:
    forged = sign_query({"vnp_Amount": "1"}, "")
    assert not is_signed(read_query(forged), ["", SECRET])
    piped = {"vnp_TxnRef": "1", "vnp_SecureHash": sign_piped({"vnp_TxnRef": "1"}, ["TxnRef"], "")}
    assert not is_piped_signed(piped, ["TxnRef"], ["", SECRET])


def test_foreign_and_empty_fields_do_not_count() -> None:
    noise = "utm_source=mail&fbclid=1&vnp_Promotion=&vnp_SecureHashType=HMACSHA512&"
    assert is_signed(read_query(noise + WITH_PLUS), [SECRET])
    assert "utm_source" not in read_query(noise + WITH_PLUS)


def test_a_name_can_not_carry_another_field() -> None:
    """One field named "vnp_A=1&vnp_B" hashes like two fields; it is no field of VNPay's."""
    hidden = WITH_PLUS.replace("vnp_Amount=1000000&vnp_BankCode=NCB", "vnp_Amount%3D1000000%26vnp_BankCode=NCB")
    with pytest.raises(BadSignature):
        read_callback(hidden, [SECRET], 0)


def test_no_field_stands_twice() -> None:
    with pytest.raises(NotVnpayError):
        read_query(WITH_PLUS + "&vnp_Amount=1000000")
    with pytest.raises(NotVnpayError):
        read_query("&".join(f"a{number}=1" for number in range(200)))
    for query in ("vnp_Amount=%FF", WITH_PLUS + "&vnp_Amount=1", ""):
        with pytest.raises(BadSignature):
            read_callback(query, [SECRET], 0)


def test_a_pay_url_is_signed_as_specified() -> None:
    request = PayRequest(
        tmn_code="DEMOV210",
        order_id=ORDER_ID,
        money=Money(50_000_000_000, "VND"),
        created_at_us=parse_instant("2026-11-24T08:00:00.999999Z"),
        expires_at_us=parse_instant("2026-11-24T09:00:00Z"),
        payer_ip="203.0.113.9",
        locale="vi-VN",
        return_url="https://pay.example.com/return/vnpay",
        bank_code=None,
    )
    assert sign_query(pay_fields(request), SECRET) == (
        "vnp_Amount=5000000&vnp_Command=pay&vnp_CreateDate=20261124150000&vnp_CurrCode=VND"
        "&vnp_ExpireDate=20261124160000&vnp_IpAddr=203.0.113.9&vnp_Locale=vn"
        f"&vnp_OrderInfo=top-up-{ORDER_ID}&vnp_OrderType=other"
        "&vnp_ReturnUrl=https%3A%2F%2Fpay.example.com%2Freturn%2Fvnpay&vnp_TmnCode=DEMOV210"
        f"&vnp_TxnRef={REFERENCE}&vnp_Version=2.1.0&vnp_SecureHash="
        "6caa4830d6b7d8678c87fa544af2f2c5e3356bf044d827747e9eb6aef617f7a8"
        "3d3f5c3a0b146b58e1217c1378ae826e51f463ae8485f387287895a6fe5bceab"
    )


# Fields in VNPay's order, and the signature that openssl makes of their values between pipes.
PIPED = {
    "querydr": (
        QUERY_NAMES,
        f"r1|2.1.0|querydr|DEMOV210|{REFERENCE}|20261124150000|20261124153000|127.0.0.1|querydr-{REFERENCE}",
        (
            "1605150a869f25109099d775df9926d47c3aa7f04b267faead72b96b07901b8b"
            "a9d004c95c44d193509f31ee6b04560f9fcb99b290c9163e1039ea762372d7ab"
        ),
    ),
    "querydr answer": (
        QUERY_ANSWER_NAMES,
        f"a1|querydr|00|QueryDR Success|DEMOV210|{REFERENCE}|5000000|NCB|20261124150500|14422574|01|00|top-up||",
        (
            "957c1269c335af94cd9d5b41444de891f58bf0fa73886798d39f27159af583f5"
            "588dbabc499d7614f3d54e4c57325a522dcd7547a66d0ce6aefb0d40c57ac501"
        ),
    ),
    "querydr answer without most fields": (
        QUERY_ANSWER_NAMES,
        f"a1|querydr|91|Not found|DEMOV210|{REFERENCE}|||||||||",
        (
            "cb4861fcfcf63d1f38dc3c79b93dd803cc8699126058253972a909344372fae6"
            "78bcd4479b6690805995939b05c9c95849a5bf12aeeeeb61a4dd2535c8863f20"
        ),
    ),
    "refund": (
        REFUND_NAMES,
        (
            f"r1|2.1.0|refund|DEMOV210|03|{REFERENCE}|2000000|14422574|20261124150000|ops-anna|20261124153000|127.0.0.1|"
            f"refund-{REFERENCE}"
        ),
        (
            "b76f35fe13196f817f49330e31948caebcac3b5e10ec4be1e83f185bcd618c72"
            "938ea2e1f7ba45a7a6bbd1e758e93f3e371e02b1e46b9ad94baa1e6728c5afa6"
        ),
    ),
    "refund answer": (
        REFUND_ANSWER_NAMES,
        f"a1|refund|00|Refund Success|DEMOV210|{REFERENCE}|2000000|NCB|20261124153001|14422999|03|05|refund",
        (
            "3e498891ae07e18147010f2cacf29b9f249744a1c448fd3e77fb8c1b9b12d2f4"
            "2d0c8705cb52160a72410b9309f95aa24f4886dd2b19c191e0a1640081333734"
        ),
    ),
}


@pytest.mark.parametrize("message", PIPED)
def test_piped_messages_are_signed_as_specified(message: str) -> None:
    names, text, signature = PIPED[message]
    values = text.split("|")
    assert len(values) == len(names)
    fields = {f"vnp_{name}": value for name, value in zip(names, values, strict=True) if value}
    assert sign_piped(fields, names, SECRET) == signature
    assert is_piped_signed(fields | {"vnp_SecureHash": signature}, names, ["new", SECRET])
    for name, value in fields.items():
        altered = fields | {name: value + "0", "vnp_SecureHash": signature}
        assert not is_piped_signed(altered, names, ["new", SECRET])


@given(st.sampled_from([WITH_PLUS, WITH_PERCENT]), st.data())
def test_no_byte_of_a_callback_can_be_altered(query: str, data: st.DataObject) -> None:
    """An altered byte is refused, or it was only another spelling of the very same fields."""
    place = data.draw(st.integers(0, len(query) - 1))
    byte = data.draw(st.characters(codec="latin-1", exclude_characters=query[place]))
    altered = query[:place] + byte + query[place + 1 :]
    if dict(parse_qsl(altered, errors="replace")) == dict(parse_qsl(query)):
        assert read_callback(altered, [SECRET], 0) == read_callback(query, [SECRET], 0)
    else:
        with pytest.raises(BadSignature):
            read_callback(altered, [SECRET], 0)


TEXT = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Z")), max_size=20)
NAMES = st.from_regex(r"vnp_[A-Z][A-Za-z0-9]{0,8}", fullmatch=True).filter(lambda name: "SecureHash" not in name)


@given(st.dictionaries(NAMES, TEXT, min_size=1, max_size=8))
def test_what_is_signed_verifies_and_means_the_same(fields: dict[str, str]) -> None:
    query = sign_query(fields, SECRET)
    read = read_query(query)
    assert is_signed(read, [SECRET])
    del read["vnp_SecureHash"]
    assert read == {name: value for name, value in fields.items() if value}
    signature = query.rpartition("=")[2]
    spaced = urlencode(fields | {"vnp_SecureHash": signature}, quote_via=quote)
    assert is_signed(read_query(spaced), [SECRET])
