"""VNPay behind the port: signed pay URLs, its callbacks, querydr and refunds. Dong only."""

import hashlib
import ipaddress
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import httpx
import orjson

from services.payment.providers import (
    AskedOrder,
    BadSignature,
    NeedsCustomer,
    Notice,
    Page,
    PageOrder,
    ProviderName,
    ProviderRefusal,
    RefundOrder,
    SavedCharge,
    unreadable_id,
)
from services.payment.rules.currencies import from_vnpay_units, to_vnpay_units
from services.payment.rules.facts import Attempted, Fact, Refunded, RefundFailed
from services.payment.rules.vnpay_messages import (
    QUERY_ANSWER_NAMES,
    QUERY_NAMES,
    REFUND_ANSWER_NAMES,
    REFUND_NAMES,
    VERSION,
    NotVnpayMessageError,
    PayRequest,
    fact_of,
    pay_fields,
    plain,
    read_result,
    txn_ref,
    write_date,
)
from services.payment.rules.vnpay_signature import (
    SIGNATURE,
    NotVnpayError,
    is_piped_signed,
    is_signed,
    read_query,
    sign_piped,
    sign_query,
)
from services.payment.settings import PaymentSettings
from shared.clock import Clock
from shared.errors import TransientFault
from shared.http_client import open_http_client

RETURN_PATH: Final = "/return/vnpay"

# Codes of querydr and refund.
_OK = "00"
_NOT_FOUND = "91"
_IN_PROGRESS = "94"
_OTHER = "99"
_REFUND_REJECTED = "09"
_PAYMENT = "01"
_FULL_REFUND, _PART_REFUND = "02", "03"

# The address of the server that asks; VNPay knows merchants by their keys and only wants the field filled.
_SERVER_IP = "127.0.0.1"
# Seven characters at least; an unknown address is stated as none.
_UNKNOWN_IP = "0.0.0.0"  # noqa: S104 - nothing is bound to it


@dataclass(frozen=True, slots=True)
class VnpayKeys:
    """The first secret signs, all verify."""

    tmn_code: str
    secrets: tuple[str, ...] = field(repr=False)


def open_vnpay(settings: PaymentSettings, clock: Clock) -> "VnpayProvider | None":
    """The provider, or None where settings hold no key for it."""
    if settings.vnpay_tmn_code is None or not settings.vnpay_hash_secrets:
        return None
    secrets = tuple(secret.get_secret_value() for secret in settings.vnpay_hash_secrets)
    return VnpayProvider(
        VnpayKeys(settings.vnpay_tmn_code, secrets),
        clock,
        open_http_client(settings.vnpay_timeout_seconds),
        pay_url=settings.vnpay_pay_url,
        api_url=settings.vnpay_api_url,
    )


def read_callback(query: str, secrets: Sequence[str], received_at_us: int) -> Notice:
    """Verify and read the raw query of an IPN or of a return page. Raises BadSignature.

    `received_at_us` is the instant of a payment for which VNPay states none.
    """
    try:
        fields = read_query(query)
    except NotVnpayError as error:
        raise BadSignature(str(error)) from None
    if not is_signed(fields, secrets):
        raise BadSignature("VNPay did not sign this")
    return read_verified(query, received_at_us)


def read_verified(query: str, received_at_us: int) -> Notice:
    """A callback that was verified before, as a notice; one that lacks what it must have says so in `problem`."""
    try:
        result = read_result(read_query(query))
    except (NotVnpayMessageError, NotVnpayError) as error:
        return Notice(unreadable_id(query.encode()), "ipn", None, None, (), problem=str(error))
    fact = fact_of(result, received_at_us)
    return Notice(
        event_id=result.event_id,
        type="ipn",
        region=None,
        order_id=result.order_id,
        facts=() if fact is None else (fact,),
        money=result.money,
    )


class VnpayProvider:
    """The port on VNPay. `client` is closed with it."""

    name: ProviderName = "vnpay"

    def __init__(self, keys: VnpayKeys, clock: Clock, client: httpx.AsyncClient, *, pay_url: str, api_url: str) -> None:
        self._keys = keys
        self._clock = clock
        self._client = client
        self._pay_url = pay_url
        self._api_url = api_url
        self._questions = 0

    async def open_page(self, order: PageOrder) -> Page:
        """A signed URL; VNPay hears of the order when the customer opens it. The same order has the same URL."""
        request = PayRequest(
            tmn_code=self._keys.tmn_code,
            order_id=order.order_id,
            money=order.money,
            created_at_us=order.created_at_us,
            expires_at_us=order.expires_at_us,
            payer_ip=_spell_ip(order.payer_ip),
            locale=order.locale,
            return_url=order.return_url + RETURN_PATH,
            bank_code=order.bank_code,
        )
        query = sign_query(pay_fields(request), self._keys.secrets[0])
        return Page(f"{self._pay_url}?{query}", txn_ref(order.order_id))

    async def look_up(self, order: AskedOrder) -> Sequence[Fact]:
        """Ask querydr. An order that VNPay has never heard of is still open."""
        answer = await self._query(txn_ref(order.order_id), order.created_at_us)
        if answer is None:
            return []
        if _text(answer, "vnp_TransactionType") not in {"", _PAYMENT}:
            # The answer is about a refund of it: that it was paid is known only from what said so then.
            return [Attempted(order.order_id, f"vnpay-refund-{_text(answer, 'vnp_TransactionStatus')[:2]}")]
        try:
            result = read_result(answer)
        except NotVnpayMessageError as error:
            raise TransientFault(f"VNPay's answer to querydr is unreadable: {error}") from None
        fact = fact_of(result, self._clock.now_us())
        return [] if fact is None else [fact]

    async def refund(self, refund: RefundOrder) -> Fact:
        """Ask for a refund; VNPay takes days. A repeat of the same request is not a second refund."""
        reference, _, number = refund.payment_id.removeprefix("vnpay:").partition(":")
        now_us = self._clock.now_us()
        answer = await self._ask(
            {
                "vnp_RequestId": refund.request_id,
                "vnp_Version": VERSION,
                "vnp_Command": "refund",
                "vnp_TmnCode": self._keys.tmn_code,
                "vnp_TransactionType": _FULL_REFUND if refund.money == refund.paid else _PART_REFUND,
                "vnp_TxnRef": reference,
                "vnp_Amount": str(to_vnpay_units(refund.money)),
                "vnp_TransactionNo": number,
                "vnp_TransactionDate": write_date(refund.order_created_at_us),
                "vnp_CreateBy": plain(refund.actor),
                "vnp_CreateDate": write_date(now_us),
                "vnp_IpAddr": _SERVER_IP,
                "vnp_OrderInfo": _refund_info(refund.request_id),
            },
            REFUND_NAMES,
        )
        code = _text(answer, "vnp_ResponseCode")
        if code == _IN_PROGRESS:
            await self._recognise(refund)
        elif code != _OK:
            raise _refusal("refund", code)
        elif not is_piped_signed(answer, REFUND_ANSWER_NAMES, self._keys.secrets):
            raise TransientFault("VNPay's answer to a refund is not signed by it")
        return _refund_fact(refund, "" if code == _IN_PROGRESS else _text(answer, "vnp_TransactionStatus"))

    async def find_refund(self, refund: RefundOrder) -> Fact | None:
        """Recognise a refund in what querydr says last happened to the payment. Another one may hide it."""
        answer = await self._query(_reference_of(refund), refund.order_created_at_us)
        if answer is None and not refund.order_id:
            # Of a lost order nobody knows the date that VNPay wants with the question.
            raise TransientFault("VNPay does not find the payment: look there whether this refund was made")
        if answer is None or _text(answer, "vnp_TransactionType") in {"", _PAYMENT}:
            return None
        info, status = _text(answer, "vnp_OrderInfo"), _text(answer, "vnp_TransactionStatus")
        amount = _text(answer, "vnp_Amount")
        named = info == _refund_info(refund.request_id)
        # What we know by its name is another one, and nothing came after it.
        if not named and any(info == _refund_info(known.removeprefix("vnpay:")) for known in refund.known):
            return None
        if named and amount.isascii() and amount.isdecimal() and int(amount):
            # Its request may have been lost, and what it asked for with it.
            refund = replace(refund, money=from_vnpay_units(int(amount)))
        alike = refund.is_only and amount == str(to_vnpay_units(refund.money))
        if not named and not alike:
            raise TransientFault("VNPay tells of another refund of this payment: look there whether this one was made")
        return _refund_fact(refund, status)

    async def find_charge(self, charge: SavedCharge, since_us: int) -> Fact | NeedsCustomer | None:
        raise ProviderRefusal("not-offered", f"VNPay charged nothing for {charge.order_id} since {since_us}")

    def remembers(self, sent_at_us: int, now_us: int) -> bool:
        """VNPay tells a repeated RequestId for the rest of its day."""
        return write_date(sent_at_us)[:8] == write_date(now_us)[:8]

    async def charge_saved(self, charge: SavedCharge) -> Fact | NeedsCustomer:
        raise ProviderRefusal("not-offered", f"VNPay charges nothing without the customer (order {charge.order_id})")

    async def expire(self, order: AskedOrder) -> None:
        """Nothing to do: VNPay closes a page by itself at the ExpireDate that it was opened with."""

    async def list_events(self, since_us: int) -> AsyncIterator[bytes]:  # noqa: ARG002 - the port's signature
        """VNPay keeps no list of events; orders are asked about one by one."""
        no_events: tuple[bytes, ...] = ()
        for event in no_events:
            yield event

    async def close(self) -> None:
        await self._client.aclose()

    async def _recognise(self, refund: RefundOrder) -> None:
        """Return if the refund that VNPay says is under way is this one; raise TransientFault if it is another."""
        answer = await self._query(_reference_of(refund), refund.order_created_at_us)
        kind = "" if answer is None else _text(answer, "vnp_TransactionType")
        amount = "" if answer is None else _text(answer, "vnp_Amount")
        if kind not in {_FULL_REFUND, _PART_REFUND} or amount != str(to_vnpay_units(refund.money)):
            raise TransientFault("VNPay is busy with another refund of this payment")

    async def _query(self, reference: str, created_at_us: int) -> Mapping[str, object] | None:
        """Querydr's answer about an order by its TxnRef, or None where VNPay does not know it."""
        now_us = self._clock.now_us()
        self._questions += 1
        answer = await self._ask(
            {
                # Unique per question, not per order: VNPay refuses a repeated one for a day.
                "vnp_RequestId": _short_hash("querydr", reference, now_us, self._questions),
                "vnp_Version": VERSION,
                "vnp_Command": "querydr",
                "vnp_TmnCode": self._keys.tmn_code,
                "vnp_TxnRef": reference,
                "vnp_TransactionDate": write_date(created_at_us),
                "vnp_CreateDate": write_date(now_us),
                "vnp_IpAddr": _SERVER_IP,
                "vnp_OrderInfo": plain(f"querydr-{reference}"),
            },
            QUERY_NAMES,
        )
        code = _text(answer, "vnp_ResponseCode")
        if code == _IN_PROGRESS:
            raise TransientFault("VNPay is still busy with an earlier question")
        if code not in {_OK, _NOT_FOUND}:
            raise _refusal("querydr", code)
        if not is_piped_signed(answer, QUERY_ANSWER_NAMES, self._keys.secrets):
            raise TransientFault("VNPay's answer to querydr is not signed by it")
        if code == _NOT_FOUND:
            return None
        if _text(answer, "vnp_TxnRef") != reference or _text(answer, "vnp_TmnCode") != self._keys.tmn_code:
            raise TransientFault("VNPay's answer to querydr is about another order")
        return answer

    async def _ask(self, fields: dict[str, str], names: Sequence[str]) -> Mapping[str, object]:
        body = fields | {SIGNATURE: sign_piped(fields, names, self._keys.secrets[0])}
        try:
            response = await self._client.post(self._api_url, json=body)
        except httpx.HTTPError as error:
            raise TransientFault(f"VNPay is out of reach: {type(error).__name__}") from None
        if response.status_code != httpx.codes.OK:
            raise TransientFault(f"VNPay answered {response.status_code}")
        try:
            answer = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            raise TransientFault("VNPay answered no JSON") from None
        if not isinstance(answer, dict):
            raise TransientFault("VNPay answered no object")
        return answer


def _reference_of(refund: RefundOrder) -> str:
    """The TxnRef of a refund's payment; its order may not be known any more."""
    return refund.payment_id.removeprefix("vnpay:").partition(":")[0]


def _refund_info(request_id: str) -> str:
    """How a refund is named at VNPay."""
    return plain(f"refund-{request_id}")


def _refund_fact(refund: RefundOrder, status: str) -> Refunded | RefundFailed:
    refund_id = f"vnpay:{refund.request_id}"
    if status == _REFUND_REJECTED:
        return RefundFailed(refund.payment_id, refund_id, refund.money, "vnpay-09")
    return Refunded(refund.payment_id, refund_id, refund.money, "succeeded" if status == _OK else "pending")


def _refusal(command: str, code: str) -> Exception:
    if code in {"", _OTHER}:
        return TransientFault(f"VNPay could not carry out {command} now ({code or 'no code'})")
    return ProviderRefusal(f"vnpay-{plain(code)[:8]}", f"VNPay refused {command} with code {plain(code)[:8]}")


def _text(answer: Mapping[str, object], name: str) -> str:
    value = answer.get(name)
    return "" if value is None else str(value)


def _spell_ip(text: str) -> str:
    """An address within VNPay's 7 to 45 characters: "::1" is too short as it is."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return _UNKNOWN_IP
    return address.exploded


def _short_hash(*parts: str | int) -> str:
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).hexdigest()
