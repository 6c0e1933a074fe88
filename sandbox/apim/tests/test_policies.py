"""Which policies and expressions are taken, what they give, and how the others are refused."""

import json
import sqlite3
from datetime import UTC, datetime

import pytest

from sandbox_apim.limits import Limits
from sandbox_apim.policy.call import Call, CallRefusedError, ExpressionError, Response
from sandbox_apim.policy.document import PolicyError, Surroundings, parse
from sandbox_apim.policy.expressions import ExpressionSyntaxError, compile_value
from sandbox_apim.policy.tokens import escape_raw
from sandbox_apim.store import Entity

MOMENT = datetime(2026, 3, 4, 5, 6, 7, 891_011, tzinfo=UTC)
USAGE_RECORD = """@{
  return new JObject(
    new JProperty("v", 1),
    new JProperty("id", context.RequestId.ToString()),
    new JProperty("time", context.Timestamp.ToUniversalTime().ToString("o")),
    new JProperty("sid", context.Subscription?.Id),
    new JProperty("product", context.Product?.Id),
    new JProperty("api", context.Api?.Id),
    new JProperty("operation", context.Operation?.Id),
    new JProperty("method", context.Request.Method),
    new JProperty("template", context.Operation?.UrlTemplate),
    new JProperty("status", context.Response?.StatusCode),
    new JProperty("requestBytes", Convert.ToInt64(context.Request.Headers.GetValueOrDefault("Content-Length","0"))),
    new JProperty("responseBytes", long.Parse(context.Response?.Headers.GetValueOrDefault("Content-Length","0") ?? "0"))
  ).ToString(Newtonsoft.Json.Formatting.None);
}"""


def call(**changes: object) -> Call:
    found = Call(
        request_id="6f1f9d43-8d0f-4f0c-9c0e-6b1a5e4f7a10",
        timestamp=MOMENT,
        method="GET",
        path="/orders/7",
        query="",
        headers={"content-length": "12"},
        body=b"",
        ip="127.0.0.1",
        limits=Limits(sqlite3.connect(":memory:")),
        api=Entity("apis/orders", {"displayName": "Orders", "path": ""}, "e"),
        operation=Entity("apis/orders/operations/get-order", {"method": "GET", "urlTemplate": "/orders/{id}"}, "e"),
        subscription=Entity("subscriptions/sub-1", {"displayName": "Mine"}, "e"),
        response=Response(200, {"content-length": "34"}, b""),
    )
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def value_of(text: str, **changes: object) -> object:
    compiled = compile_value(text)
    assert compiled is not None
    return compiled.get(call(**changes))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("@(context.Subscription.Id)", "sub-1"),
        ('@(context.Subscription?.Id ?? "none")', "sub-1"),
        ('@( context . Subscription ?. Id\n\t?? "none" )', "sub-1"),
        ('@(context.Subscription.Id + "-" + context.Timestamp.ToString("yyyyMM"))', "sub-1-202603"),
        ('@(context.Timestamp.ToUniversalTime().ToString("o"))', "2026-03-04T05:06:07.8910110Z"),
        ('@(context.Timestamp.ToString("yyyy-MM-ddTHH:mm:ssZ"))', "2026-03-04T05:06:07Z"),
        ("@(context.RequestId.ToString())", "6f1f9d43-8d0f-4f0c-9c0e-6b1a5e4f7a10"),
        ("@(context.Operation?.Method)", "GET"),
        ("@((int?)context.Response?.StatusCode)", 200),
        ("@(context.Response?.StatusCode ?? 0)", 200),
        ("@(context.Response.StatusCode >= 200 && context.Response.StatusCode < 300)", True),
        ("@(!(context.Response.StatusCode == 200) || false)", False),
        ('@(long.Parse(context.Request.Headers.GetValueOrDefault("Content-Length", "0")) + 1)', 13),
        ('@("a" + context.Response.StatusCode)', "a200"),
        ("@(context.Response.StatusCode.ToString())", "200"),
        ('@("say \\"hi\\" @ (now)")', 'say "hi" @ (now)'),
        ('@("\\u007b\\u0040 \\b")', "{@ \b"),
        ("@(context.Subscription.Id.Split('-')[0])", "sub"),
        ('@(context.Subscription.Id.Split(\'_\')[0] + "-" + context.Timestamp.ToString("yyyyMM"))', "sub-1-202603"),
        ("@((context.Subscription?.Id.Split('-')[1] ?? \"none\"))", "1"),
        ("@(/* why */ context.Request.Method)", "GET"),
    ],
)
def test_an_expression_of_the_list_gives_its_value(text: str, value: object) -> None:
    assert value_of(text) == value


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [
        (datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC), 1),
        (datetime(2028, 2, 28, 23, 59, 59, tzinfo=UTC), 86_401),
        (datetime(2026, 12, 1, tzinfo=UTC), 31 * 86_400),
    ],
    ids=["a second before March", "a leap year", "a whole December"],
)
def test_the_seconds_to_the_next_month_can_be_computed(moment: datetime, seconds: int) -> None:
    days = "(DateTime.DaysInMonth(context.Timestamp.Year, context.Timestamp.Month) - context.Timestamp.Day + 1) * 86400"
    time = "context.Timestamp.Hour * 3600 - context.Timestamp.Minute * 60 - context.Timestamp.Second"
    assert value_of(f"@(({days} - {time}).ToString())", timestamp=moment) == str(seconds)


def test_what_is_null_stays_null_behind_a_question_mark_and_fails_without_one() -> None:
    absent = {"subscription": None, "response": None}
    assert value_of('@(context.Subscription?.Id ?? "none")', **absent) == "none"
    assert value_of("@((int?)context.Response?.StatusCode)", **absent) is None
    assert value_of('@(Convert.ToInt64(context.Response?.Headers.GetValueOrDefault("Content-Length","0")))', **absent) == 0
    with pytest.raises(ExpressionError):
        value_of("@(context.Subscription.Id)", **absent)


def test_a_part_that_is_not_there_fails_and_of_null_is_null() -> None:
    with pytest.raises(ExpressionError, match="outside the bounds"):
        value_of("@(context.Subscription.Id.Split('-')[2])")
    assert value_of("@(context.Subscription?.Id.Split('-')[0] ?? \"none\")", subscription=None) == "none"


def test_the_reason_of_an_error_can_be_asked_for() -> None:
    error = CallRefusedError(403, "Out of call volume quota.", source="quota", reason="QuotaExceeded")
    assert value_of('@(context.LastError.Reason == "QuotaExceeded")', error=error) is True
    assert value_of('@(context.LastError.Reason == "RateLimitExceeded")', error=error) is False


def test_the_usage_record_is_compact_json_with_numbers_as_numbers() -> None:
    text = value_of(USAGE_RECORD)
    assert isinstance(text, str)
    assert json.loads(text) == {
        "v": 1,
        "id": "6f1f9d43-8d0f-4f0c-9c0e-6b1a5e4f7a10",
        "time": "2026-03-04T05:06:07.8910110Z",
        "sid": "sub-1",
        "product": None,
        "api": "orders",
        "operation": "get-order",
        "method": "GET",
        "template": "/orders/{id}",
        "status": 200,
        "requestBytes": 12,
        "responseBytes": 34,
    }
    assert ": " not in text


@pytest.mark.parametrize(
    "text",
    [
        '@("a" - "b")',
        '@(2 * "3")',
        "@(DateTime.Now)",
        "@(context.Timestamp.Ticks)",
        '@(DateTime.DaysInMonth(2026, "2"))',
        "@(context.User.Email)",
        "@(context.Subscription.Key)",
        "@(context.Request.Body.As<string>())",
        '@(context.Request.Headers["x"])',
        '@(System.IO.File.ReadAllText("/etc/passwd"))',
        "@(context.Request?.Method)",
        "@(context.Subscription.Id == 1)",
        '@(context.Subscription.Id > "a")',
        "@(context.Response.StatusCode && true)",
        "@(context.Subscription.Id",
        "@(context.Subscription.Id) tail",
        "head @(context.Subscription.Id)",
        "@()",
        '@{ var x = 1; return "a"; }',
        '@{ return "a" }',
        '@(context.Timestamp.ToString("dddd"))',
        '@(new JObject(new JProperty("a", 1), new JProperty("a", 2)).ToString(Newtonsoft.Json.Formatting.None))',
        '@(new JObject(new JProperty("a", 1)).ToString())',
        "@(" + "(" * 100 + "1" + ")" * 100 + ")",
        '@("\\q")',
    ],
)
def test_any_other_expression_is_refused(text: str) -> None:
    with pytest.raises(ExpressionSyntaxError):
        compile_value(text)


def policies(inbound: str = "", backend: str = "<base />", outbound: str = "", on_error: str = "") -> str:
    return (
        f"<policies>\n<inbound>{inbound}</inbound><backend>{backend}</backend>"
        f"<outbound>{outbound}</outbound><on-error>{on_error}</on-error></policies>"
    )


def check(text: str, scope: str = "product", *, raw: bool = True) -> None:
    around = Surroundings(scope, "products/pro/policies/policy", lambda name: "gateway.calls" if name == "usage" else None)  # type: ignore[arg-type]
    parse(text, around, raw=raw)


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        (policies("<base /><!-- a comment --><rate-limit calls='10' renewal-period='60' />"), "product"),
        (policies('<quota calls="100" renewal-period="2592000" />'), "product"),
        (policies('<quota bandwidth="40" renewal-period="0" />'), "product"),
        (policies('<quota-by-key calls="1" renewal-period="0" counter-key="@(context.Subscription.Id + "x")" />'), "global"),
        (
            policies(
                '<rate-limit-by-key calls="1" renewal-period="9" counter-key="@(context.Request.IpAddress)"'
                ' increment-condition="@(context.Response.StatusCode < 500)" />'
            ),
            "api",
        ),
        (policies(outbound=f'<base /><log-to-eventhub logger-id="usage">{USAGE_RECORD}</log-to-eventhub>'), "global"),
        (policies(backend='<forward-request timeout="20" />'), "global"),
        (
            policies('<set-header name="x-a" exists-action="append"><value>a</value><value>@(context.Api.Id)</value></set-header>'),
            "operation",
        ),
        (
            policies(
                on_error='<choose><when condition="@(context.LastError.Reason == "QuotaExceeded")"><return-response>'
                '<set-status code="403" reason="Forbidden" /><set-body>@("limit of " + context.Product?.Id)</set-body>'
                "</return-response></when><otherwise><base-free /></otherwise></choose>"
            ).replace("<base-free />", '<set-header name="x" exists-action="delete" />'),
            "product",
        ),
    ],
)
def test_a_policy_of_the_list_is_taken(text: str, scope: str) -> None:
    check(text, scope)


@pytest.mark.parametrize(
    ("text", "scope", "words"),
    [
        ("<policies><inbound>", "product", "on line 1"),
        ("<policy />", "product", "the root element is 'policies'"),
        (policies("<cors />"), "product", "Error in element 'cors' on line 2, column 10: 'cors' is not in the sandbox's list"),
        (policies('<quota calls="1" renewal-period="60" />'), "api", "not allowed in the specified scope"),
        (policies('<rate-limit calls="1" renewal-period="60" />'), "global", "not allowed in the specified scope"),
        (policies(outbound='<rate-limit calls="1" renewal-period="60" />'), "product", "not allowed in the specified section"),
        (policies('<rate-limit calls="1" renewal-period="301" />'), "product", "from 1 to 300, not '301'"),
        (policies('<rate-limit calls="1" renewal-period="60" /><rate-limit calls="2" renewal-period="60" />'), "product", "only once"),
        (policies('<rate-limit calls="1" renewal-period="60" color="red" />'), "product", "attribute 'color'"),
        (policies('<rate-limit calls="ten" renewal-period="60" />'), "product", "not 'ten'"),
        (policies('<rate-limit calls="1" renewal-period="60"><api name="a" calls="1" /></rate-limit>'), "product", "inside 'rate-limit'"),
        (policies('<quota renewal-period="60" />'), "product", "'calls', 'bandwidth' or both"),
        (policies('<quota-by-key calls="1" renewal-period="60" counter-key="a" />'), "product", "0 or at least 300"),
        (policies(outbound='<log-to-eventhub logger-id="other">x</log-to-eventhub>'), "product", "Logger 'other' was not found"),
        (policies(outbound='<log-to-eventhub logger-id="usage">@(context.User.Email)</log-to-eventhub>'), "product", "context.User.Email"),
        (policies("<forward-request />"), "product", "not allowed in the specified section"),
        (policies("<choose><when condition='@(1 + 1)' /></choose>"), "product", "type bool"),
        (policies("stray"), "product", "text is not allowed here"),
        ('<!DOCTYPE policies [<!ENTITY a "b">]><policies />', "product", "document type"),
        (policies(f"<!--{'x' * 300_000}-->"), "product", "larger than"),
    ],
)
def test_any_other_policy_is_refused_with_line_and_cause(text: str, scope: str, words: str) -> None:
    with pytest.raises(PolicyError) as refused:
        check(text, scope)
    assert words in str(refused.value)


def test_raw_xml_and_escaped_xml_mean_the_same() -> None:
    raw = policies('<quota-by-key calls="1" renewal-period="0" counter-key="@(context.Subscription.Id + "<&>")" />')
    check(raw)
    with pytest.raises(PolicyError):
        check(raw, raw=False)
    check(escape_raw(raw), raw=False)
    check(escape_raw(raw), raw=True)
    assert escape_raw(escape_raw(raw)) == escape_raw(raw)
