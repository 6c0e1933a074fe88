"""The sample backend behind the gateway: a small orders API that can be asked to fail."""

import re
from urllib.parse import parse_qs

import orjson

from sandbox_apim.policy.call import Call, Response

SERVICE_URL = "https://sample-api.invalid"  # reserved name: never resolved, the gateway answers in process
ORDERS_MAX = 10_000
OPERATIONS: tuple[tuple[str, str, str, str], ...] = (
    ("list-orders", "List orders", "GET", "/orders"),
    ("create-order", "Create an order", "POST", "/orders"),
    ("get-order", "Get an order", "GET", "/orders/{id}"),
    ("delete-order", "Delete an order", "DELETE", "/orders/{id}"),
    ("get-status", "Answer with a status code", "GET", "/status/{code}"),
)


class SampleApi:
    """Orders in memory: 1 to 100 exist at the start; a restart begins anew."""

    def __init__(self) -> None:
        self._orders = {number: {"id": number, "item": "coffee", "quantity": number % 5 + 1} for number in range(1, 101)}
        self._next = 101

    def __call__(self, call: Call, path: str) -> Response:
        """Answer one request; `path` is relative to the API."""
        if path.rstrip("/") == "/orders":
            return self._create(call.body) if call.method == "POST" else self._list(call.query)
        if match := re.fullmatch(r"/orders/(\d{1,9})", path):
            return self._one(call.method, int(match.group(1)))
        if match := re.fullmatch(r"/status/([2-5]\d\d)", path):
            return _answer(int(match.group(1)), {"status": int(match.group(1))})
        return _answer(404, {"error": "not_found"})

    def _list(self, query: str) -> Response:
        limit = parse_qs(query).get("limit", ["20"])[0]
        if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit) <= 100:
            return _answer(400, {"error": "limit is a whole number from 1 to 100"})
        return _answer(200, {"orders": list(self._orders.values())[: int(limit)], "total": len(self._orders)})

    def _create(self, body: bytes) -> Response:
        try:
            given = orjson.loads(body)
            item, quantity = given["item"], given.get("quantity", 1)
        except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
            return _answer(400, {"error": 'send a JSON object such as {"item": "coffee", "quantity": 2}'})
        if not isinstance(item, str) or not 1 <= len(item) <= 100 or not isinstance(quantity, int) or not 1 <= quantity <= 1000:
            return _answer(400, {"error": "item has 1 to 100 characters, quantity is 1 to 1000"})
        order = {"id": self._next, "item": item, "quantity": quantity}
        self._orders[self._next] = order
        self._next += 1
        if len(self._orders) > ORDERS_MAX:
            del self._orders[next(iter(self._orders))]
        return _answer(201, order)

    def _one(self, method: str, number: int) -> Response:
        if number not in self._orders:
            return _answer(404, {"error": "order_not_found", "id": number})
        if method == "DELETE":
            del self._orders[number]
            return Response(204, {"content-length": "0"})
        return _answer(200, self._orders[number])


def _answer(status: int, document: object) -> Response:
    body = b"" if status in {204, 304} else orjson.dumps(document)
    return Response(status, {"content-type": "application/json", "content-length": str(len(body))}, body)
