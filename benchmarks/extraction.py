"""Rate and memory of `sgpo strategies extract` against a loopback server with a fixed latency.

    python benchmarks/extraction.py --problems 10000 --candidates 1

The ideal rate is concurrency / latency requests per second: what a client would reach that cost no time itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from itertools import count, islice
from pathlib import Path
from typing import Any

from sgpo.problems import Problem, load_problems
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.extract import Extraction, extract_strategies
from sgpo.strategies.replies import StrongModel
from sgpo.verifier import Verifier

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "train" / "gsm8k_train.jsonl"
STRATEGY: dict[str, Any] = {
    "problem_type": "Two related quantities and their total",
    "approach": "Find the unknown quantity from its relation to the known one, then add.",
    "steps": ["Name the known quantity.", "Apply the stated relation to it.", "Add the two quantities."],
    "when_to_use": "When a total is asked for and one part is given through the other.",
}
SCORES = {"faithful": 4, "general": 4, "actionable": 4, "leak_free": 5}


def serve(latency: float, port: multiprocessing.Queue[int]) -> None:
    """Answers every chat request after `latency` seconds."""

    def body(request: dict[str, object]) -> bytes:
        n = request["n"]
        assert isinstance(n, int)
        ranking = "faithful" in str(request["messages"])
        strategies = [{**STRATEGY, "approach": f"{STRATEGY['approach']} {'i' * i}"} for i in range(n)]
        texts = [json.dumps(SCORES if ranking else strategy) for strategy in strategies]
        choices = [{"index": i, "message": {"role": "assistant", "content": text}} for i, text in enumerate(texts)]
        return json.dumps({"choices": choices, "usage": {"prompt_tokens": 700, "completion_tokens": 150}}).encode()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
                )
                request = json.loads(await reader.readexactly(length))
                await asyncio.sleep(latency)
                answer = body(request)
                head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer)
                writer.write(head + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def make_problems(number: int) -> list[Problem]:
    """GSM8K's training problems, as often as it takes, each with a text of its own."""
    originals = load_problems(DATA)
    endless = (
        Problem(id=f"{round_}-{p.id}", problem=f"{p.problem} ({round_})", answer=p.answer, solution=p.solution)
        for round_ in count()
        for p in originals
    )
    return list(islice(endless, number))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=10_000)
    parser.add_argument("--candidates", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--latency", type=float, default=0.2)
    arguments = parser.parse_args()
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(arguments.latency, port), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{port.get()}/v1"
    problems = make_problems(arguments.problems)

    def show(report: Extraction) -> None:
        if report.done % 1000 == 0:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{report.done} problems, peak memory {memory:.0f} MiB", file=sys.stderr, flush=True)

    async def run(bank: StrategyBank, verifier: Verifier) -> tuple[Extraction, StrongModel, float]:
        settings = {
            "base_url": url,
            "model": "m",
            "key": "x",
            "cache": bank,
            "concurrency": arguments.concurrency,
        }
        async with StrongModel(**settings) as model:
            started = time.monotonic()
            report = await extract_strategies(
                problems, bank, model, verifier, candidates=arguments.candidates, on_progress=show
            )
            return report, model, time.monotonic() - started

    with (
        tempfile.TemporaryDirectory() as folder,
        StrategyBank(Path(folder) / "bank.db") as bank,
        Verifier() as verifier,
    ):
        verifier.verify("\\boxed{1}", "1")
        report, model, seconds = asyncio.run(run(bank, verifier))
    server.terminate()
    ideal = arguments.concurrency / arguments.latency
    rate = model.usage.requests / seconds
    print(f"{report.active} of {report.problems} problems have an active strategy")
    print(f"{model.usage.requests} requests in {seconds:.1f} s")
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    each = 1000 * (cpu.ru_utime + cpu.ru_stime) / model.usage.requests
    print(f"{each:.2f} ms of processor time per request, the leak gate and the bank included")
    print(f"{rate:.1f} requests per second, {100 * rate / ideal:.1f} % of the ideal {ideal:.0f}")


if __name__ == "__main__":
    main()
