"""The `openai` source of completions: a model behind an endpoint that speaks the OpenAI chat protocol.

What a server refuses, or fails at again and again, is one missing answer and not the end of the evaluation. After a
wrong key, address or model name, or where the server cannot be reached any more, the rest is not asked.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Sequence
from typing import Any

from sgpo.endpoint import ChatEndpoint, RequestError, RetryPolicy
from sgpo.errors import EndpointError
from sgpo.evaluation.evaluate import Keep, Request, SampledCompletion
from sgpo.rollouts.engine import Sampling

logger = logging.getLogger("sgpo.evaluation")

RETRIES = 5  # of one request, with growing pauses
TIMEOUT = 1800.0  # seconds of one request: 32,768 tokens at 20 a second
UNREACHED_IN_A_ROW = 10  # requests, after which (and those under way) the server is taken to be gone
# So that a server does not fill them in from the model's generation_config, as vLLM does (Qwen2.5-Instruct: top_k 20,
# repetition_penalty 1.05). No top-k is -1 for vLLM, SGLang and llama.cpp alike; 0 is refused by the second.
NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
# What may be left to the server. Temperature and top-p may not: the scores would be those of another evaluation.
REFUSABLE = {name: re.compile(name) for name in NEUTRAL} | {
    "max_tokens": re.compile("context|max_tokens"),
    "max_completion_tokens": re.compile("context|max_completion_tokens"),
}


class EndpointSource:
    """A served model. `concurrency` requests are under way at once; the key is OPENAI_API_KEY, if it is set.

    Raises InputError for an address that is none.
    """

    def __init__(self, base_url: str, model: str, *, concurrency: int) -> None:
        attempts, in_a_row = RETRIES + 1, UNREACHED_IN_A_ROW + concurrency
        self.endpoint = ChatEndpoint(
            base_url=base_url,
            model=model,
            key=os.environ.get("OPENAI_API_KEY", ""),
            concurrency=concurrency,
            timeout=TIMEOUT,
            retries=RetryPolicy(
                attempts=attempts,
                attempts_at_first=attempts,
                attempts_out_of_time=attempts,
                attempts_rate_limited=attempts,
                attempts_unreadable=1,
                given_up_in_a_row=in_a_row,
                given_up_at_first=in_a_row,
                unreadable_in_a_row=in_a_row,
                refused_at_first=float("inf"),
            ),
            refusable=REFUSABLE,
            on_refusal=self._warn,
        )
        self.gone = ""  # why nothing more is asked

    def token_limit(self, prompts: Sequence[str], max_tokens: int) -> int:
        """An endpoint does not tell its context; where it refuses the limit, it is asked without one."""
        return max_tokens

    def sample(self, requests: Sequence[Request], sampling: Sampling, keep: Keep) -> list[str]:
        """Complete the requests, and hand completions to `keep` as they come. Returns what went wrong with others."""
        return asyncio.run(self._sample(requests, sampling, keep))

    async def _sample(self, requests: Sequence[Request], sampling: Sampling, keep: Keep) -> list[str]:
        waiting = iter(requests)
        done: asyncio.Queue[SampledCompletion | str] = asyncio.Queue()
        failures: list[str] = []

        async def work() -> None:
            for request in waiting:
                done.put_nowait(await self._result(request, sampling))

        async with self.endpoint:
            workers = [asyncio.create_task(work()) for _ in range(min(self.endpoint.concurrency, len(requests)))]
            try:
                left = len(requests)
                while left:
                    results = [await done.get()]
                    while not done.empty():
                        results.append(done.get_nowait())
                    left -= len(results)
                    # The requests under way do not wait for the disk.
                    await asyncio.to_thread(
                        keep, [result for result in results if isinstance(result, SampledCompletion)]
                    )
                    failures += [result for result in results if isinstance(result, str)]
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return failures

    async def _result(self, request: Request, sampling: Sampling) -> SampledCompletion | str:
        """The answer to a request, or what went wrong."""
        where = f"problem {request.problem.id!r}, sample {request.number}"
        if self.gone:
            return f"{where}: not asked, {self.gone}"
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": request.prompt}],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": request.seed % 2**31,
            "max_tokens": sampling.max_tokens,
            **NEUTRAL,
        }
        try:
            replies, sent = await self.endpoint.send(body)
        except EndpointError as error:
            self.gone = str(error)
            return f"{where}: {self.gone}"
        except RequestError as error:
            return f"{where}: {error}"
        reply = replies[0]
        if not reply.has_message:
            return f"{where}: no chat completion (a choice without a message)"
        tokens = reply.completion_tokens if reply.counted else None
        max_tokens = sent.get("max_tokens", sent.get("max_completion_tokens"))
        left_to_server = tuple(name for name in NEUTRAL if name not in sent)
        return SampledCompletion(request, reply.text, tokens, reply.truncated, max_tokens, left_to_server)

    def _warn(self, option: str, words: str) -> None:
        """Say what is left to the server from now on, and why."""
        url = self.endpoint.address
        if option in NEUTRAL:
            what = "left to the server from now on, whose defaults may be others than none"
            logger.warning("%s refuses %s (%s); %s", url, option, words, what)
        else:
            what = "asked without a limit from now on"
            logger.warning("%s: its context is shorter than the prompt and the limit (%s); %s", url, words, what)
