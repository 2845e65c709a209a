"""What servers refuse, say in a strange place, or say too much of: nothing paid for and no problem is lost to it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import SCORES, STRATEGY, ChatServer, Reply, chat, error, good, is_ranking
from test_extract import clips, extract
from test_strong_model import KEY, ask

from sgpo import endpoint
from sgpo.chat import glimpse
from sgpo.endpoint import RequestError, address_of, retry_after
from sgpo.errors import EndpointError
from sgpo.strategies.bank import StrategyBank
from sgpo.verifier import Verifier


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(workers=1) as opened:
        yield opened


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[StrategyBank]:
    with StrategyBank(tmp_path / "bank.db") as opened:
        yield opened


def ended(text: str | None, finish_reason: str | None, **message: Any) -> Reply:
    return chat(choices=[{"message": {"content": text, **message}, "finish_reason": finish_reason}])


# ------------------------------------------------------------------------------------------------------------ no credit


@pytest.mark.parametrize(
    "refusal",
    [
        error(402, "Insufficient Balance"),
        error(400, "Billing hard limit has been reached", "billing_hard_limit_reached"),
        chat(error={"code": 402, "message": "Insufficient credits"}, choices=None),
    ],
)
def test_a_spent_credit_ends_the_run_and_records_nothing(
    server: ChatServer, bank: StrategyBank, verifier: Verifier, refusal: Reply
) -> None:
    server.script = lambda request, number: refusal
    with pytest.raises(EndpointError, match=r"no credit is left \(status 40[02]: .*\); top it up"):
        extract(server, bank, verifier, *(clips(i) for i in range(5)), concurrency=1)
    assert len(server.requests) == 1
    assert bank.failures() == []
    server.script = lambda request, number: good(request)
    assert extract(server, bank, verifier, *(clips(i) for i in range(5)), candidates=1).active == 5


def test_what_failed_is_asked_again_when_told_and_only_that(
    server: ChatServer, bank: StrategyBank, verifier: Verifier
) -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        text = request["messages"][0]["content"]
        if not is_ranking(request) and "Natalia 1 sold" in text:
            return chat("no object")
        if not is_ranking(request) and "Natalia 2 sold" in text:
            return error(400, "flagged")
        return good(request)

    problems = [clips(i) for i in range(3)]
    server.script = script
    report = extract(server, bank, verifier, *problems, candidates=1)
    assert (report.active, report.failed) == (1, 2)
    assert "problem 'clips-" in report.reasons["failed"]
    asked = len(server.requests)
    report = extract(server, bank, verifier, *problems, candidates=1)
    assert (report.earlier, report.earlier_failed, len(server.requests)) == (3, 2, asked)
    server.script = lambda request, number: good(request)
    report = extract(server, bank, verifier, *problems, candidates=1, retry_failed=True)
    assert (report.earlier, report.active, len(server.requests)) == (1, 2, asked + 4)
    assert bank.failures() == []


def test_more_room_is_no_reason_to_do_finished_problems_again(
    server: ChatServer, bank: StrategyBank, verifier: Verifier
) -> None:
    extract(server, bank, verifier, clips(), candidates=1)
    report = extract(server, bank, verifier, clips(), candidates=1, max_tokens=20_000)
    assert (report.earlier, len(server.requests)) == (1, 2)
    extract(server, bank, verifier, clips(1), candidates=1, max_tokens=20_000)
    assert [request["max_tokens"] for request in server.requests] == [8192, 8192, 20_000, 20_000]


# ---------------------------------------------------------------------------------------------- errors inside a success


def test_an_error_inside_a_success_is_that_problem_s_failure_with_its_words(
    server: ChatServer, bank: StrategyBank, verifier: Verifier
) -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        if "Natalia 0" in request["messages"][0]["content"]:
            return chat(choices=None, error={"code": 400, "message": "the prompt was flagged"})
        return good(request)

    server.script = script
    report = extract(server, bank, verifier, clips(0), clips(1), candidates=1, concurrency=1)
    assert (report.failed, report.active, len(server.requests)) == (1, 1, 3)
    (failure,) = bank.failures()
    assert failure["message"] == "status 400: the prompt was flagged"


@pytest.mark.parametrize(
    ("inside", "status"),
    [
        ({"code": 403, "message": "flagged"}, 403),
        ({"code": "413", "message": "too long"}, 413),
        ({"type": "invalid_request_error", "code": None, "message": "too long"}, 400),
        ({"code": "context_length_exceeded", "message": "too long"}, 400),
        ({"code": 502, "message": "the provider is gone"}, 502),
        ({"message": "the provider is gone"}, 500),
        ("the provider is gone", 500),
    ],
)
def test_an_error_inside_a_success_has_the_status_that_it_states(server: ChatServer, inside: Any, status: int) -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        first = request["messages"][0]["content"] == "a"
        return chat(choices=None, error=inside) if first else chat("fine")

    server.script = script
    (_, failure), _ = ask(server, "b", "a", concurrency=1)
    assert isinstance(failure, RequestError)
    assert failure.final == (status < 500)
    assert str(failure) == f"status {status}: {inside if isinstance(inside, str) else inside['message']}"


def test_a_problem_that_is_left_unfinished_says_why(server: ChatServer, bank: StrategyBank, verifier: Verifier) -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        return error(500, "out of memory") if "Natalia 0" in request["messages"][0]["content"] else good(request)

    server.script = script
    report = extract(server, bank, verifier, clips(1), clips(0), candidates=1, concurrency=1)
    assert (report.active, report.unfinished) == (1, 1)
    assert report.reasons == {"unfinished": "problem 'clips-0': status 500: out of memory"}


# -------------------------------------------------------------------------------------------------- how a reply ended


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (ended("", "length"), "it was empty at max_tokens 32768 (finish_reason length)"),
        (
            ended('{"problem_type": "a', "length"),
            "its JSON object was broken or cut off at max_tokens 32768 (fin",
        ),
        (ended(None, "content_filter"), "it was empty (finish_reason content_filter)"),
        (ended(None, "stop", refusal="I cannot help."), "it was empty; the model refused: I cannot help."),
        (ended(None, "\x1b[2Jstop" + "p" * 300), f"it was empty (finish_reason \ufffd[2Jstop{'p' * 192}...)"),
    ],
)
def test_the_reason_says_how_the_reply_ended(
    server: ChatServer, bank: StrategyBank, verifier: Verifier, reply: Reply, reason: str
) -> None:
    server.script = lambda request, number: reply
    assert extract(server, bank, verifier, clips(), candidates=1).failed == 1
    (failure,) = bank.failures()
    assert str(failure["message"]).startswith(reason)
    # The same run again reads the same from the bank.
    server.script = lambda request, number: error(500, "not asked")
    assert extract(server, bank, verifier, clips(), candidates=1).earlier == 1


def test_a_reply_that_was_cut_off_gets_more_room(server: ChatServer, bank: StrategyBank, verifier: Verifier) -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        return good(request) if is_ranking(request) or request["max_tokens"] > 8192 else ended("", "length")

    server.script = script
    assert extract(server, bank, verifier, clips(), candidates=1).active == 1
    assert [request["max_tokens"] for request in server.requests] == [8192, 16384, 8192]
    active = bank.get("clips-0")
    assert active is not None
    assert active.sampling == {"temperature": 0.8, "top_p": 0.95, "max_tokens": 16384}


def test_more_room_that_is_refused_leaves_the_first_reason(
    server: ChatServer, bank: StrategyBank, verifier: Verifier
) -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        return ended("", "length") if request.get("max_tokens") == 8192 else error(400, "no more than 8192 here")

    server.script = script
    assert extract(server, bank, verifier, clips(), candidates=1).failed == 1
    assert bank.failures()[0]["message"] == (
        "it was empty at max_tokens 8192 (finish_reason length); asked again: status 400: no more than 8192 here"
    )


def test_a_limit_that_is_too_large_is_not_given_up_for_lower_ones(server: ChatServer) -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        large = request.get("max_tokens", 0) > 8192
        return error(400, "max_tokens is too large: the context has 8192") if large else chat("fine")

    server.script = script
    _, model = ask(server)
    model._learn({"max_tokens": endpoint.Refusal(None, 16384, "too large")})
    assert endpoint._adapted({"max_tokens": 8192}, model._replaced) == {"max_tokens": 8192}
    assert endpoint._adapted({"max_tokens": 20_000}, model._replaced) == {}


# --------------------------------------------------------------------------------------------- options that are refused


def test_words_that_an_error_repeats_cost_no_option(server: ChatServer, bank: StrategyBank, verifier: Verifier) -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        if "Natalia 0" in request["messages"][0]["content"]:
            return error(400, "flagged: 'find n such that the temperature and top_p of response_format ...'")
        return good({"n": 1, **request})

    server.script = script
    report = extract(server, bank, verifier, clips(0), clips(1), candidates=2, concurrency=1)
    assert (report.failed, report.active) == (1, 1)
    asked = [request for request in server.requests if "Natalia 1" in request["messages"][0]["content"]]
    assert all({"temperature", "n", "top_p", "response_format", "max_tokens"} <= request.keys() for request in asked)


def test_the_stored_sampling_is_what_the_server_was_told(
    server: ChatServer, bank: StrategyBank, verifier: Verifier
) -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        return error(400, "temperature: unsupported") if "temperature" in request else good(request)

    server.script = script
    assert extract(server, bank, verifier, clips(), candidates=1).active == 1
    active = bank.get("clips-0")
    assert active is not None
    assert active.sampling == {"top_p": 0.95, "max_tokens": 8192}


def test_an_error_that_names_its_parameter_is_taken_at_its_word(server: ChatServer) -> None:
    body = json.dumps({"error": {"message": "temperature is a word of the prompt", "param": "messages"}}).encode()
    server.script = lambda request, number: Reply(400, body, {"Content-Type": "application/json"})
    (failure,), _ = ask(server)
    assert isinstance(failure, RequestError)
    assert len(server.requests) == 1


# ----------------------------------------------------------------------------------------------- drafts and other parts


def test_of_two_objects_the_last_one_is_the_answer(server: ChatServer, bank: StrategyBank, verifier: Verifier) -> None:
    draft = {**STRATEGY, "approach": "A first idea."}
    text = f"Draft: {json.dumps(draft)}\nBetter: {json.dumps(STRATEGY)}"
    server.script = lambda request, number: chat(json.dumps(SCORES) if is_ranking(request) else text)
    extract(server, bank, verifier, clips(), candidates=1)
    active = bank.get("clips-0")
    assert active is not None
    assert active.approach == STRATEGY["approach"]


def test_parts_that_are_reasoning_are_no_text(server: ChatServer) -> None:
    parts = [
        {"type": "reasoning", "text": "draft "},
        {"type": "thinking", "text": "draft "},
        {"type": "text", "text": "said"},
    ]
    server.script = lambda request, number: chat(choices=[{"message": {"content": parts}}])
    ((texts,), _) = ask(server)
    assert texts == ["said"]


# ------------------------------------------------------------------------------------------ keys, passwords, terminals


@pytest.mark.parametrize("before", range(178, 202, 4))
def test_a_key_at_the_edge_of_what_is_shown_is_not_shown_in_part(server: ChatServer, before: int) -> None:
    for reply in (error(400, "x" * before + KEY), Reply(body=b"x" * before + KEY.encode())):
        server.script = lambda request, number, reply=reply: reply  # type: ignore[misc]
        (failure,), _ = ask(server)
        assert KEY[:3] not in str(failure)


def test_a_password_in_the_address_is_never_printed(server: ChatServer) -> None:
    url = server.url.replace("//", "//me:hunter2-secret@") + "?token=hunter3"
    server.script = lambda request, number: error(401, "no user me with hunter2-secret")
    (failure,), model = ask(server, url=url.partition("?")[0])
    assert "hunter" not in str(failure) + repr(model)
    assert server.url in str(failure)
    assert address_of(url) == server.url
    with pytest.raises(ValueError, match=r"--base-url host/v1: not an address"):
        ask(server, url="me:hunter2@host/v1")
    assert address_of("http://me:a@b/c@host/v1") == "http://host/v1"
    server.script = lambda request, number: error(401, "no user me with 2%40secret or 2@secret")
    (failure,), _ = ask(server, url=server.url.replace("//", "//me:2%40secret@"))
    assert "no user me with [key] or [key]" in str(failure)


def test_a_server_does_not_steer_the_terminal(server: ChatServer) -> None:
    server.script = lambda request, number: error(400, "\x1b]0;owned\x07\x9b2J\u202e red \x1b[31m")
    (failure,), _ = ask(server)
    assert not [character for character in str(failure) if not character.isprintable()]
    assert glimpse("a\x1b[2Jb\nc") == "a\ufffd[2Jb c"


# ------------------------------------------------------------------------------------------------- numbers beyond sense


def test_numbers_beyond_sense_are_not_believed(server: ChatServer, bank: StrategyBank, verifier: Verifier) -> None:
    for value in ("inf", "1e999", "nan", "Infinity", "Fri, 13 Nov 99999999999 10:00:00 GMT"):
        assert retry_after({"retry-after": value}) is None
    assert retry_after({"retry-after-ms": "inf"}) is None
    server.script = lambda request, number: chat(
        json.dumps(SCORES) if is_ranking(request) else json.dumps(STRATEGY), prompt_tokens=2**63
    )
    assert extract(server, bank, verifier, clips(), candidates=1).active == 1
    assert bank.stats()["tokens"] < 1000


def test_an_answer_is_bounded_by_what_it_unfolds_into(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "MAX_BYTES", 100_000)
    packed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    bomb = Reply(body=gzip.compress(b" " * 5_000_000), headers=packed)
    honest = Reply(body=gzip.compress(chat("fine").body), headers=packed)
    other = Reply(body=b"...", headers={**packed, "Content-Encoding": "br"})
    server.script = lambda request, number: [bomb, other, honest][number]
    ((texts,), model) = ask(server)
    assert (texts, model.usage.requests) == (["fine"], 3)
