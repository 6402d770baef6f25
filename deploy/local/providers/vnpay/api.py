"""VNPay's pay page, its IPN and its transaction API as the stand-in serves them."""

import hmac
import json
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from deploy.local.providers.control import ControlError, read_json, route
from deploy.local.providers.courier import Courier
from deploy.local.providers.pages import read_form, show
from deploy.local.providers.store import Document, Store
from deploy.local.providers.vnpay.formats import (
    DATE,
    QUERY,
    QUERY_ANSWER,
    REFUND,
    REFUND_ANSWER,
    ZONE,
    is_complete,
    read_date,
)
from deploy.local.providers.vnpay.signing import HASH, piped_hash, query_hash, signed_query
from shared.clock import Clock, from_us

# TransactionStatus by the code of the page: cancelled and refused payments are errors, a suspicious one is held.
_STATUS = {"00": "00", "07": "07"}


@dataclass(frozen=True, slots=True)
class Merchant:
    tmn_code: str
    secret: str


class VnpayApi:
    def __init__(self, store: Store, clock: Clock, merchant: Merchant, courier: Courier) -> None:
        self._store = store
        self._clock = clock
        self._merchant = merchant
        self._courier = courier
        # What the next payment brings in instead of the amount asked for, in dong times 100.
        self._next_amount: int | None = None
        self.routes = [
            Route("/paymentv2/vpcpay.html", self._page, methods=["GET"]),
            Route("/paymentv2/pay/{reference}", self._submit, methods=["POST"]),
            Route("/merchant_webapi/api/transaction", self._transaction, methods=["POST"]),
            route("/truth", self._truth, "GET"),
            route("/capture", self._capture),
            route("/orders/{reference}/result", self._late_result),
            route("/refunds/{request_id}/reject", self._reject_refund),
        ]

    @property
    def _now(self) -> datetime:
        return from_us(self._clock.now_us()).astimezone(ZONE)

    async def _page(self, request: Request) -> Response:
        fields = dict(parse_qsl(request.url.query, keep_blank_values=True))
        if problem := self._find_problem(fields):
            return show("message.html", status=400, title="VNPay refuses this payment", text=problem)
        reference = fields["vnp_TxnRef"]
        with self._store.transaction():
            if self._store.get("order", reference) is None:
                self._store.put("order", reference, {"asked": fields, "status": "01", "refunds": []})
        if self._require(reference)["status"] != "01":
            return show("message.html", status=410, title="This order is done", text="It was paid or refused already.")
        return show(
            "vnpay.html",
            info=fields["vnp_OrderInfo"],
            amount=f"{int(fields['vnp_Amount']) // 100:,}",
            reference=reference,
        )

    def _find_problem(self, fields: dict[str, str]) -> str | None:
        """What is wrong with a pay URL, in VNPay's order of checking."""
        given = fields.get(HASH, "")
        if not hmac.compare_digest(given.lower().encode(), query_hash(self._merchant.secret, fields).encode()):
            return "Wrong signature (code 70)."
        if fields.get("vnp_TmnCode") != self._merchant.tmn_code:
            return "Unknown merchant (code 72)."
        needed = (
            "Version",
            "Command",
            "Amount",
            "CreateDate",
            "CurrCode",
            "IpAddr",
            "Locale",
            "OrderInfo",
            "OrderType",
            "ReturnUrl",
            "TxnRef",
            "ExpireDate",
        )
        missing = [name for name in needed if not fields.get(f"vnp_{name}")]
        if missing or fields["vnp_Version"] != "2.1.0" or fields["vnp_Command"] != "pay":
            return f"Wrong format (code 03): {', '.join(missing)}"
        amount = fields["vnp_Amount"]
        if fields["vnp_CurrCode"] != "VND" or not amount.isdecimal() or len(amount) > 12 or int(amount) < 500_000:
            return "Wrong amount (code 04)."
        expires = read_date(fields["vnp_ExpireDate"])
        if expires is None or read_date(fields["vnp_CreateDate"]) is None:
            return "Wrong format (code 03): a date"
        return "The time to pay is over (code 15)." if expires <= self._now else None

    async def _submit(self, request: Request) -> Response:
        reference = request.path_params["reference"]
        code = (await read_form(request)).get("code", "00")
        with self._store.transaction():
            order = self._store.get("order", reference)
            if order is None or order["status"] != "01":
                return show("message.html", status=410, title="This order is done", text="There is nothing to pay.")
            query = self._end(reference, order, code)
        return RedirectResponse(f"{order['asked']['vnp_ReturnUrl']}?{query}", 303)

    def _end(self, reference: str, order: Document, code: str) -> str:
        """Note how an order ended and plan its IPN; answers the signed result."""
        amount = self._next_amount or int(order["asked"]["vnp_Amount"])
        self._next_amount = None
        order |= {
            "status": _STATUS.get(code, "02"),
            "code": code,
            "amount": str(amount),
            "number": self._new_number() if code in _STATUS else "0",
            "pay_date": self._now.strftime(DATE),
        }
        self._store.put("order", reference, order)
        query = signed_query(self._merchant.secret, self._result(reference, order))
        self._courier.enqueue(f"ipn {reference}", query)
        return query

    def _new_number(self) -> str:
        return str(14_000_000 + self._store.count("transaction"))

    def _result(self, reference: str, order: Document) -> dict[str, str]:
        return {
            "vnp_Amount": order["amount"],
            "vnp_BankCode": order["asked"].get("vnp_BankCode") or "NCB",
            "vnp_BankTranNo": f"VNP{order['number']}" if order["number"] != "0" else "",
            "vnp_CardType": "ATM",
            "vnp_OrderInfo": order["asked"]["vnp_OrderInfo"],
            "vnp_PayDate": order["pay_date"],
            "vnp_ResponseCode": order["code"],
            "vnp_TmnCode": self._merchant.tmn_code,
            "vnp_TransactionNo": order["number"],
            "vnp_TransactionStatus": order["status"],
            "vnp_TxnRef": reference,
        }

    async def _transaction(self, request: Request) -> Response:
        """Querydr and refund: JSON in, signed JSON out; a wrong hash is answered 97, what can't be read 03."""
        try:
            fields = {name: str(value) for name, value in json.loads(await request.body()).items()}
        except (ValueError, AttributeError):
            fields = {}
        command = fields.get("vnp_Command", "")
        names = REFUND if command == "refund" else QUERY
        expected = piped_hash(self._merchant.secret, fields, names)
        with self._store.transaction():
            if not hmac.compare_digest(fields.get(HASH, "").lower().encode(), expected.encode()):
                answer = {"vnp_ResponseCode": "97", "vnp_Message": "Invalid checksum"}
            elif fields.get("vnp_TmnCode") != self._merchant.tmn_code:
                answer = {"vnp_ResponseCode": "02", "vnp_Message": "Invalid TmnCode"}
            elif command not in {"querydr", "refund"} or not is_complete(fields, names):
                answer = {"vnp_ResponseCode": "03", "vnp_Message": "Invalid format"}
            elif self._store.get("request", fields["vnp_RequestId"]) is not None:
                answer = {"vnp_ResponseCode": "94", "vnp_Message": "Duplicate request"}
            else:
                self._store.put("request", fields["vnp_RequestId"], {"at": fields["vnp_CreateDate"]})
                answer = self._refund(fields) if command == "refund" else self._query(fields)
        answer |= {
            "vnp_ResponseId": f"{self._store.count('response'):032d}",
            "vnp_Command": command,
            "vnp_TmnCode": self._merchant.tmn_code,
            "vnp_TxnRef": fields.get("vnp_TxnRef", ""),
        }
        answer[HASH] = piped_hash(self._merchant.secret, answer, REFUND_ANSWER if command == "refund" else QUERY_ANSWER)
        return JSONResponse(answer)

    def _query(self, fields: dict[str, str]) -> dict[str, str]:
        order = self._store.get("order", fields["vnp_TxnRef"])
        if order is None or order["asked"]["vnp_CreateDate"] != fields["vnp_TransactionDate"]:
            return {"vnp_ResponseCode": "91", "vnp_Message": "Transaction not found"}
        common = {"vnp_ResponseCode": "00", "vnp_Message": "QueryDR Success", "vnp_TransactionType": "01"}
        if order["status"] == "01":
            return common | {"vnp_TransactionStatus": "01", "vnp_Amount": order["asked"]["vnp_Amount"]}
        kept = ("Amount", "BankCode", "PayDate", "TransactionNo", "TransactionStatus", "OrderInfo")
        result = self._result(fields["vnp_TxnRef"], order)
        answer = common | {f"vnp_{name}": result[f"vnp_{name}"] for name in kept}
        if order["refunds"]:
            # The latest thing done to the payment is what is told: a refund of all of it, or of a part.
            refund = order["refunds"][-1]
            whole = refund["amount"] == int(order["amount"])
            answer |= {
                "vnp_TransactionType": "02" if whole else "03",
                "vnp_Amount": str(refund["amount"]),
                "vnp_TransactionStatus": refund["status"],
            }
        return answer

    def _refund(self, fields: dict[str, str]) -> dict[str, str]:
        order = self._store.get("order", fields["vnp_TxnRef"])
        if order is None:
            return {"vnp_ResponseCode": "91", "vnp_Message": "Transaction not found"}
        if order["status"] != "00":
            return {"vnp_ResponseCode": "95", "vnp_Message": "The transaction was not successful"}
        gone = sum(item["amount"] for item in order["refunds"] if item["status"] != "09")
        amount, whole = int(fields["vnp_Amount"]), fields["vnp_TransactionType"] == "02"
        if amount > int(order["amount"]) - gone or (whole and amount != int(order["amount"])):
            return {"vnp_ResponseCode": "03", "vnp_Message": "Invalid amount"}
        order["refunds"].append({"request_id": fields["vnp_RequestId"], "amount": amount, "status": "05"})
        self._store.put("order", fields["vnp_TxnRef"], order)
        return {
            "vnp_ResponseCode": "00",
            "vnp_Message": "Refund Success",
            "vnp_Amount": fields["vnp_Amount"],
            "vnp_BankCode": order["asked"].get("vnp_BankCode") or "NCB",
            "vnp_PayDate": self._now.strftime(DATE),
            "vnp_TransactionNo": self._new_number(),
            "vnp_TransactionType": fields["vnp_TransactionType"],
            "vnp_TransactionStatus": "05",
            "vnp_OrderInfo": fields["vnp_OrderInfo"],
        }

    def _require(self, reference: str) -> Document:
        order = self._store.get("order", reference)
        if order is None:
            raise ControlError(f"no order {reference}")
        return order

    # Control

    async def _truth(self, _request: Request) -> Response:
        """What was really paid and refunded, by TxnRef; amounts in dong times 100."""
        paid = [body for body in self._store.newest_first("order") if body["status"] == "00"]
        return JSONResponse(
            {
                "payments": [
                    {
                        "reference": body["asked"]["vnp_TxnRef"],
                        "number": body["number"],
                        "amount": int(body["amount"]),
                        "refunds": body["refunds"],
                    }
                    for body in paid
                ]
            }
        )

    async def _capture(self, request: Request) -> Response:
        """{"amount": 100}: the next payment brings this in, in dong times 100."""
        self._next_amount = int((await read_json(request))["amount"])
        return JSONResponse({})

    async def _late_result(self, request: Request) -> Response:
        """{"code": "00"}: the order ends otherwise after all, with a transaction and an IPN of its own."""
        code = str((await read_json(request)).get("code", "00"))
        with self._store.transaction():
            order = self._require(request.path_params["reference"])
            self._end(request.path_params["reference"], order, code)
        return JSONResponse({})

    async def _reject_refund(self, request: Request) -> Response:
        with self._store.transaction():
            for order in self._store.newest_first("order"):
                for refund in order["refunds"]:
                    if refund["request_id"] == request.path_params["request_id"]:
                        refund["status"] = "09"
                        self._store.put("order", order["asked"]["vnp_TxnRef"], order)
                        return JSONResponse(refund)
        raise ControlError("no such refund")
