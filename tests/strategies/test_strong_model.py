from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from chat_server import ChatServer, Reply, chat, error, html

from sgpo import endpoint
from sgpo.endpoint import Prices, RequestError, RetryPolicy, retry_after
from sgpo.endpoint import Reply as ModelReply
from sgpo.errors import BudgetError, EndpointError
from sgpo.strategies.replies import ChatOptions, JSONSchema, StrongModel

KEY = "sk-very-secret-0123"
OPTIONS = ChatOptions(temperature=0.5, max_tokens=64)


class Memory:
    """A cache that is a dict."""

    def __init__(self) -> None:
        self.stored: dict[str, list[ModelReply]] = {}

    def replies(self, key: str) -> list[ModelReply] | None:
        return self.stored.get(key)

    def store_replies(self, key: str, model: str, replies: Sequence[ModelReply]) -> None:
        self.stored[key] = list(replies)


def ask(server: ChatServer, *prompts: str, n: int = 1, url: str | None = None, **options: Any) -> Any:
    """Ask all prompts at once: (the texts of each, or the error it raised; the model)."""

    async def run() -> Any:
        model = StrongModel(
            base_url=url or server.url,
            model="strong",
            **{"key": KEY, "cache": Memory(), "retries": RetryPolicy(pause=0.001), "timeout": 10.0, **options},
        )
        async with model:
            calls = [model.sample(prompt, n, options=OPTIONS) for prompt in prompts or ["What?"]]
            results = await asyncio.gather(*calls, return_exceptions=True)
        texts = [r if isinstance(r, BaseException) else [answer.text for answer in r] for r in results]
        return texts, model

    return asyncio.run(run())


def first_then_good(*replies: Reply) -> Any:
    return lambda request, number: replies[number] if number < len(replies) else chat("fine")


def test_a_request_says_all_that_shapes_the_answer(server: ChatServer) -> None:
    schema = JSONSchema(name="s", schema={"type": "object"})

    async def run() -> None:
        async with StrongModel(base_url=server.url, model="strong", key=KEY, cache=Memory()) as model:
            await model.sample("What?", 3, options=OPTIONS, schema=schema)

    server.script = lambda request, number: chat("a", "b", "c")
    asyncio.run(run())
    assert server.requests == [
        {
            "model": "strong",
            "messages": [{"role": "user", "content": "What?"}],
            "n": 3,
            "temperature": 0.5,
            "top_p": 1.0,
            "max_tokens": 64,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "s", "strict": True, "schema": {"type": "object"}},
            },
        }
    ]
    assert server.keys == [f"Bearer {KEY}"]


def test_a_server_that_gives_one_choice_is_asked_until_there_are_enough(server: ChatServer) -> None:
    server.script = lambda request, number: chat(f"answer {number}")
    ((texts,), _) = ask(server, n=5)
    assert sorted(texts) == [f"answer {i}" for i in range(5)]
    assert [request["n"] for request in server.requests] == [5, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        ([], ""),
        ([{}], ""),
        ([{"message": None}], ""),
        ([{"message": {"content": None}}], ""),
        ([{"message": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"x": 1}, 3]}}], "ab"),
        ([{"message": {"content": "half \ud800 a pair"}}], "half ? a pair"),
    ],
)
def test_choices_of_every_shape(server: ChatServer, choices: list[Any], text: str) -> None:
    server.script = lambda request, number: chat(choices=choices)
    ((texts,), _) = ask(server)
    assert texts == [text]


# ------------------------------------------------------------------------------------------------ never asked twice


def test_the_same_question_is_sent_once_even_at_the_same_time(server: ChatServer) -> None:
    server.script = lambda request, number: chat(f"answer {number}")
    memory = Memory()
    texts, model = ask(server, "What?", "What?", "What?", cache=memory)
    assert texts == [["answer 0"]] * 3
    assert (model.usage.requests, model.usage.cached) == (1, 2)
    ask(server, "What?", cache=memory)
    assert len(server.requests) == 1
    ask(server, "What else?", cache=memory)
    ask(server, "What?", n=2, cache=memory)
    assert len(server.requests) == 4  # another question; two answers, of which the server gave one at first


def test_another_draw_is_another_answer(server: ChatServer) -> None:
    server.script = lambda request, number: chat(f"answer {number}")

    async def run() -> list[str]:
        async with StrongModel(base_url=server.url, model="strong", key=KEY, cache=Memory()) as model:
            return [(await model.sample("What?", 1, options=OPTIONS, draw=d))[0].text for d in (0, 1, 0)]

    assert asyncio.run(run()) == ["answer 0", "answer 1", "answer 0"]


# ------------------------------------------------------------------------------------------------- what is tried again


@pytest.mark.parametrize(
    "failure",
    [
        error(500, "oops"),
        error(503, "starting"),
        error(429, "slow down"),
        error(408, "too slow"),
        html(502),
        html(),
        Reply(body=b'{"choices": [{"mess', headers={"Content-Type": "application/json"}),
        Reply(body=b'{"error": {"message": "overloaded"}}', headers={"Content-Type": "application/json"}),
        Reply(body=b"null", headers={"Content-Type": "application/json"}),
        Reply(body=b"", headers={"Content-Type": "application/json"}),
        Reply(act="drop"),
    ],
    ids=lambda reply: f"{reply.status} {reply.act} {reply.body[:12]!r}",
)
def test_what_may_pass_is_tried_again(server: ChatServer, failure: Reply) -> None:
    server.script = first_then_good(failure, failure)
    ((texts,), model) = ask(server)
    assert texts == ["fine"]
    assert (model.usage.requests, model.usage.retries) == (3, 2)


def test_retry_after_is_honoured(server: ChatServer) -> None:
    server.script = first_then_good(
        error(429, "slow down", Retry_After="0.4"), error(503, "busy", retry_after_ms="300")
    )
    ((texts,), _) = ask(server)
    assert texts == ["fine"]
    assert server.times[1] - server.times[0] >= 0.4
    assert server.times[2] - server.times[1] >= 0.3


def test_retry_after_in_all_its_forms() -> None:
    assert retry_after({"retry-after": "3"}) == 3.0
    assert retry_after({"retry-after-ms": "1500", "retry-after": "3"}) == 1.5
    assert retry_after({"retry-after": "-3"}) == 0.0
    in_a_minute = datetime.now(UTC) + timedelta(seconds=60)
    assert retry_after({"retry-after": format_datetime(in_a_minute, usegmt=True)}) == pytest.approx(60, abs=2)
    assert retry_after({"retry-after": "Fri, 13 Nov 2020 10:00:00 GMT"}) == 0.0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


def test_a_server_that_hangs_is_left_at_the_time_out(server: ChatServer) -> None:
    server.script = first_then_good(Reply(act="hang"))
    ((texts,), _) = ask(server, timeout=0.3)
    assert texts == ["fine"]


@pytest.mark.parametrize("status", [200, 500])
def test_an_endless_answer_ends(server: ChatServer, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setattr(endpoint, "MAX_BYTES", 100_000)
    server.script = first_then_good(Reply(status, b"a" * 10_000, act="endless"))
    ((texts,), _) = ask(server)
    assert texts == ["fine"]


def test_an_endless_trickle_ends_at_the_time_out(server: ChatServer) -> None:
    def trickle(request: dict[str, Any], number: int) -> Reply:
        return Reply(body=b"", act="endless") if number == 0 else chat("fine")

    server.script = trickle  # writes of nothing: the headers came, the body never does
    ((texts,), _) = ask(server, timeout=0.3)
    assert texts == ["fine"]


# ----------------------------------------------------------------------------------------------------- what ends a run


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (error(401, f"Incorrect API key provided: {KEY}"), "the key was refused .*set OPENAI_API_KEY"),
        (error(403, "no access"), "the key was refused"),
        (error(404, "The model `strong` does not exist"), "is there a model 'strong'"),
        (error(429, "You exceeded your quota", "insufficient_quota"), "exceeded your quota"),
        (error(429, "tomorrow", Retry_After="86400"), "come back in 1440 minutes"),
    ],
)
def test_what_cannot_pass_stops_at_once(server: ChatServer, reply: Reply, message: str) -> None:
    server.script = lambda request, number: reply
    results, model = ask(server, *(f"Question {i}" for i in range(50)), concurrency=4)
    assert all(isinstance(result, EndpointError) for result in results)
    with pytest.raises(EndpointError, match=message) as raised:
        raise results[0]
    assert KEY not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(server.requests) <= 4  # those under way when the first answer came
    assert model.usage.retries == 0


def test_nothing_but_html_stops_after_ten(server: ChatServer) -> None:
    server.script = lambda request, number: html()
    results, _ = ask(server, *(f"Question {i}" for i in range(20)), concurrency=1)
    with pytest.raises(EndpointError, match="nothing but unreadable answers; the last was no JSON: '<html>"):
        raise results[0]
    assert len(server.requests) == 10


def test_html_between_answers_stops_nothing(server: ChatServer) -> None:
    server.script = lambda request, number: chat("fine") if number % 9 == 8 else html()
    results, _ = ask(server, *(f"Question {i}" for i in range(5)), concurrency=1)
    assert results == [["fine"]] * 5


def test_a_host_that_is_not_there_is_one_clear_line(server: ChatServer) -> None:
    for url, message in [
        ("http://127.0.0.1:9/v1", "127.0.0.1:9/v1: the connection failed .*; is the server up"),
        ("http://no-such-host.invalid/v1", "no-such-host.invalid/v1: the connection failed"),
    ]:
        results, _ = ask(server, "a", "b", url=url)
        with pytest.raises(EndpointError, match=message) as raised:
            raise results[0]
        assert "\n" not in str(raised.value)


def test_a_server_that_dies_midway_stops_the_run_and_one_bad_request_does_not(server: ChatServer) -> None:
    server.script = lambda request, number: chat("fine") if number == 0 else error(500, "oops")
    results, _ = ask(server, *(f"Question {i}" for i in range(10)), concurrency=1)
    assert results[0] == ["fine"]
    assert [type(result) for result in results[1:4]] == [RequestError, RequestError, EndpointError]
    assert "status 500: oops, 6 times over" in str(results[3])

    def one_bad(request: dict[str, Any], number: int) -> Reply:
        return error(500, "oops") if request["messages"][0]["content"] == "Question 1" else chat("fine")

    server.script = one_bad
    results, _ = ask(server, *(f"Question {i}" for i in range(4)), concurrency=1)
    assert [type(result) for result in results] == [list, RequestError, list, list]
    assert not results[1].final


def test_a_request_that_is_refused_fails_alone_unless_all_are(server: ChatServer) -> None:
    def too_long(request: dict[str, Any], number: int) -> Reply:
        return error(400, "too long") if request["messages"][0]["content"] == "Question 1" else chat("fine")

    server.script = too_long
    results, _ = ask(server, *(f"Question {i}" for i in range(3)), concurrency=1)
    assert [type(result) for result in results] == [list, RequestError, list]
    assert results[1].final
    assert len(server.requests) == 3

    server.script = lambda request, number: error(400, "no such thing")
    results, _ = ask(server, *(f"Question {i}" for i in range(20)), concurrency=1)
    with pytest.raises(EndpointError, match=r"refuses every request \(status 400: no such thing\)"):
        raise results[-1]
    assert len(server.requests) == 13


@pytest.mark.parametrize(
    ("message", "option", "instead"),
    [
        ("This response_format type is unavailable now", "response_format", None),
        (
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            "max_tokens",
            "max_completion_tokens",
        ),
        ("max_tokens is too large: 64. The maximum context length is 32.", "max_tokens", None),
        ("Unsupported value: 'temperature' does not support 0.5", "temperature", None),
    ],
)
def test_an_option_that_the_server_refuses_is_given_up(
    server: ChatServer, message: str, option: str, instead: str | None
) -> None:
    server.script = lambda request, number: error(400, message) if option in request else chat("fine")

    async def run() -> list[str]:
        async with StrongModel(base_url=server.url, model="strong", key=KEY, cache=Memory()) as model:
            schema = JSONSchema(name="s", schema={})
            calls = [model.sample(f"Question {i}", 1, options=OPTIONS, schema=schema) for i in range(5)]
            return [answers[0].text for answers in await asyncio.gather(*calls)]

    assert asyncio.run(run()) == ["fine"] * 5
    accepted = [request for request in server.requests if option not in request]
    assert len(accepted) == 5
    assert all((instead in request) if instead else True for request in accepted)


# ------------------------------------------------------------------------------------------------ budget, cost, the key


@pytest.mark.parametrize(
    "message",
    [
        "'n' : number must be at most 1",
        "Only one completion choice is allowed",
        '[{"loc": ["body", "n"], "msg": "Extra inputs"}]',
    ],
)
def test_a_server_that_refuses_several_choices_is_asked_for_one_at_a_time(server: ChatServer, message: str) -> None:
    def one_choice(request: dict[str, Any], number: int) -> Reply:
        return error(400, message) if "n" in request else chat(f"answer {number}")

    server.script = one_choice
    results, _ = ask(server, "a", "b", "c", n=4, concurrency=1)
    assert [len(set(texts)) for texts in results] == [4, 4, 4]
    assert len(server.requests) == 1 + 3 * 4  # refused once


def test_a_refusal_that_speaks_of_a_line_break_does_not_cost_the_other_choices(server: ChatServer) -> None:
    server.script = first_then_good(error(400, r"unexpected '\n' in the image's address"))
    results, _ = ask(server, "a", "b", n=2, concurrency=1)
    assert isinstance(results[0], RequestError)
    assert server.requests[1]["n"] == 2


def test_the_budget_of_requests_counts_retries(server: ChatServer) -> None:
    server.script = first_then_good(error(500, "oops"))
    results, model = ask(server, "a", "b", "c", "d", concurrency=1, max_requests=3)
    assert results[:2] == [["fine"], ["fine"]]
    assert all(isinstance(result, BudgetError) for result in results[2:])
    assert "budget of 3 requests is spent" in str(results[2])
    assert len(server.requests) == model.usage.requests == 3


def test_the_budget_of_tokens_holds_even_where_the_server_counts_none(server: ChatServer) -> None:
    results, model = ask(server, "a", "b", "c", concurrency=1, max_tokens=110)
    assert [type(result) for result in results] == [list, BudgetError, BudgetError]
    assert model.usage.tokens == 110

    server.script = lambda request, number: chat("four" * 1000, usage=None)
    results, model = ask(server, "a", "b", "c", concurrency=1, max_tokens=1500)
    assert [type(result) for result in results] == [list, list, BudgetError]
    assert 2000 <= model.usage.tokens <= 2200


def test_tokens_and_cost_are_shared_among_the_choices(server: ChatServer) -> None:
    server.script = lambda request, number: chat("a", "b", "c", prompt_tokens=1000, completion_tokens=200)

    async def run() -> tuple[list[ModelReply], StrongModel]:
        prices = Prices(prompt=2.0, completion=10.0)
        async with StrongModel(base_url=server.url, model="strong", key="", cache=Memory(), prices=prices) as model:
            return await model.sample("What?", 3, options=OPTIONS), model

    answers, model = asyncio.run(run())
    assert [answer.prompt_tokens for answer in answers] == [334, 333, 333]
    assert [answer.completion_tokens for answer in answers] == [67, 67, 66]
    # 1000 at 2 and 200 at 10 per million: 0.002 + 0.002.
    assert sum(answer.cost or 0 for answer in answers) == pytest.approx(0.004)
    assert model.usage.cost == pytest.approx(0.004)
    assert server.keys == ["Bearer none"]


def test_the_key_is_in_no_answer_and_no_message(server: ChatServer) -> None:
    memory = Memory()
    server.script = lambda request, number: chat(f"your key is {KEY}")
    ((texts,), model) = ask(server, cache=memory)
    assert texts == ["your key is [key]"]
    assert KEY not in repr(memory.stored)
    escaped = "".join(f"\\u{ord(letter):04X}" for letter in KEY)
    server.script = lambda request, number: chat(
        f'{{"approach": "{escaped}", "steps": "{KEY.replace("-", chr(92) + "-")}"}}'
    )
    ((texts,), _) = ask(server)
    assert texts == ['{"approach": "[key]", "steps": "[key]"}']
    assert KEY not in repr(model)
    server.script = lambda request, number: Reply(body=KEY.encode())
    results, _ = ask(server)
    assert KEY not in str(results[0])
    assert "[key]" in str(results[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:8000/v1"}, "localhost:8000/v1: not an address"),
        ({"url": "http://[::1/v1"}, "not an address"),
        ({"key": "sk-\u2026"}, "holds characters that no key has"),
        ({"key": "sk\n-1"}, "holds characters that no key has"),
    ],
)
def test_what_cannot_work_is_refused_before_a_request(server: ChatServer, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask(server, **options)
    assert json.dumps(server.requests) == "[]"
