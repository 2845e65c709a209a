"""The `openai` source of answers: any endpoint that speaks the OpenAI chat protocol.

What a server refuses, or fails at again and again, is one missing answer and not the end of the evaluation. After a
wrong key, address or model name, or where the server cannot be reached any more, the rest is not asked.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2
import openai

from sgpo.errors import InputError
from sgpo.evaluation.evaluate import Keep, Request
from sgpo.evaluation.evaluate import SampledCompletion as Answer
from sgpo.rollouts.engine import Sampling

logger = logging.getLogger("sgpo.evaluation")

RETRIES = 5  # of one request, with the client's growing pauses
TIMEOUT = 1800.0  # seconds of one request: 32,768 tokens at 20 a second
# So that a server does not fill them in from the model's generation_config, as vLLM does (Qwen2.5-Instruct: top_k 20,
# repetition_penalty 1.05). No top-k is -1 for vLLM, SGLang and llama.cpp alike; 0 is refused by the second.
NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
UNREACHED_IN_A_ROW = 10  # requests, after which (and those under way) the server is taken to be gone


class Endpoint:
    """A served model. `concurrency` requests are under way at once; the key is OPENAI_API_KEY, if it is set.

    Raises InputError for an address that is none.
    """

    def __init__(self, base_url: str, model: str, *, concurrency: int) -> None:
        try:
            valid = httpx2.URL(base_url).scheme in ("http", "https")
        except httpx2.InvalidURL:
            valid = False
        if not valid:
            raise InputError(f"--base-url {base_url}: not an address; expected one such as http://localhost:8000/v1")
        self.base_url, self.model, self.concurrency = base_url, model, concurrency
        self.without_limit = False
        self.left_to_server: set[str] = set()  # of NEUTRAL, what the server refuses by name
        self.unreached = 0  # in a row
        self.gone = ""  # why nothing more is asked

    def token_limit(self, prompts: Sequence[str], max_tokens: int) -> int:
        """An endpoint does not tell its context; where it refuses the limit, see `_post`."""
        return max_tokens

    def sample(self, requests: Sequence[Request], sampling: Sampling, keep: Keep) -> list[str]:
        return asyncio.run(self._sample(requests, sampling, keep))

    async def _sample(self, requests: Sequence[Request], sampling: Sampling, keep: Keep) -> list[str]:
        waiting = iter(requests)
        done: asyncio.Queue[Answer | str] = asyncio.Queue()
        failures: list[str] = []
        async with openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=os.environ.get("OPENAI_API_KEY", "").strip() or "none",
            max_retries=RETRIES,
            timeout=httpx2.Timeout(TIMEOUT, connect=10.0),
        ) as client:

            async def work() -> None:
                for request in waiting:
                    done.put_nowait(await self._result(client, request, sampling))

            workers = [asyncio.create_task(work()) for _ in range(min(self.concurrency, len(requests)))]
            try:
                left = len(requests)
                while left:
                    results = [await done.get()]
                    while not done.empty():
                        results.append(done.get_nowait())
                    left -= len(results)
                    # Judging takes a while: the requests under way must not wait for it.
                    await asyncio.to_thread(keep, [result for result in results if isinstance(result, Answer)])
                    failures += [result for result in results if isinstance(result, str)]
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return failures

    async def _result(self, client: openai.AsyncOpenAI, request: Request, sampling: Sampling) -> Answer | str:
        where = f"problem {request.problem.id!r}, sample {request.number}"
        if self.gone:
            return f"{where}: not asked, {self.gone}"
        try:
            answer = await self._post(client, request, sampling)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            self.gone = (
                f"{self.base_url} refuses model {self.model!r} ({_words(error)}); check --base-url (most end in /v1), "
                "--model and OPENAI_API_KEY"
            )
            return f"{where}: {self.gone}"
        except (openai.APIConnectionError, openai.InternalServerError) as error:
            self.unreached += 1
            if self.unreached >= UNREACHED_IN_A_ROW + self.concurrency:
                self.gone = f"{self.base_url} cannot be reached ({_words(error)}); is the server up?"
            return f"{where}: {self.base_url}: {_words(error)}"
        except (openai.APIError, ValueError) as error:
            return f"{where}: {_words(error)}"
        self.unreached = 0
        return answer

    async def _post(self, client: openai.AsyncOpenAI, request: Request, sampling: Sampling) -> Answer:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": request.prompt}],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": request.seed % 2**31,
            **{name: value for name, value in NEUTRAL.items() if name not in self.left_to_server},
        }
        if not self.without_limit:
            body["max_tokens"] = sampling.max_tokens
        try:
            reply = await client.post("/chat/completions", cast_to=httpx2.Response, body=body)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if not self._adapt(error, body):
                raise
            return await self._post(client, request, sampling)
        left_to_server = tuple(name for name in NEUTRAL if name not in body)
        return _answer(request, reply.content, max_tokens=body.get("max_tokens"), left_to_server=left_to_server)

    def _adapt(self, error: openai.APIStatusError, body: Mapping[str, Any]) -> bool:
        """Leave out what the server refuses, and say so. True: ask once more without it."""
        refused = {name for name in NEUTRAL if name in body and name in str(error)}
        if new := refused - self.left_to_server:
            self.left_to_server |= new
            logger.warning(
                "%s refuses %s (%s); left to the server from now on, whose defaults may be others than none",
                self.base_url, " and ".join(sorted(new)), _words(error),
            )  # fmt: skip
        if refused:
            return True
        if "max_tokens" not in body or not any(word in _words(error) for word in ("context", "max_tokens")):
            return False
        if not self.without_limit:
            self.without_limit = True
            logger.warning(
                "%s: its context is shorter than the prompt and %d tokens (%s); asked without a limit from now on",
                self.base_url, body["max_tokens"], _words(error),
            )  # fmt: skip
        return True


def _answer(request: Request, content: bytes, *, max_tokens: int | None, left_to_server: tuple[str, ...]) -> Answer:
    """The first choice of a chat completion. Raises InputError for anything else."""
    try:
        reply = json.loads(content)
        choice = reply["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, RecursionError, LookupError, TypeError):
        raise InputError(f"no chat completion: {content[:100]!r}") from None
    if text is not None and not isinstance(text, str):
        raise InputError(f"no chat completion: {content[:100]!r}")
    usage = reply.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    # Half a surrogate pair cannot be stored. A server that ends within the reasoning gives no content at all.
    text = (text or "").encode("utf-8", "replace").decode("utf-8")
    counted_tokens = tokens if isinstance(tokens, int) else None
    truncated = choice.get("finish_reason") == "length"
    return Answer(request, text, counted_tokens, truncated, max_tokens, left_to_server)


def _words(error: Exception) -> str:
    """What went wrong, on one line, without the key."""
    text = " ".join((str(error) or type(error).__name__).split())[:300]
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    return text.replace(key, "[key]") if key else text
