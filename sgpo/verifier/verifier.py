"""`Verifier`: verdicts on completions, from a pool of killable workers."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Literal, Self

from sgpo.errors import InputError
from sgpo.problems import Problem
from sgpo.verifier.extract import READ_LIMIT
from sgpo.verifier.kinds import KINDS, UsageError, Verdict, check_of
from sgpo.verifier.pool import Pool, WorkerReply

logger = logging.getLogger("sgpo.verifier")


class Verifier:
    """Judges completions against gold answers, keeps their order, and judges identical pairs once.

    The workers start when the first answer needs them. An answer that takes too long, runs out of memory or crashes its
    worker gets the verdict `timeout` and costs no other answer. Threads may share a verifier.

    Args:
        workers: processes that judge.
        timeout: seconds of processor time per answer.
        policy: `lenient` takes an answer wherever it stands, and 0.3333 for 1/3; `strict` wants a box (or `####`,
            `<answer>`, "final answer is") and exact values. Only the kind `math` knows the difference. See
            docs/verifier.md.

    Raises:
        InputError: `workers`, `timeout` or `policy` is out of range.

    Example:
        with Verifier(workers=2) as verifier:
            verifier.verify("... so the answer is \\\\boxed{0.5}", "1/2").kind  # "correct"
    """

    def __init__(
        self, workers: int = 2, timeout: float = 5.0, *, policy: Literal["lenient", "strict"] = "lenient"
    ) -> None:
        if workers < 1:
            raise InputError(f"workers must be at least 1, got {workers}")
        if not timeout > 0:
            raise InputError(f"timeout must be a positive number of seconds, got {timeout}")
        if policy not in ("lenient", "strict"):
            raise InputError(f"policy must be 'lenient' or 'strict', got {policy!r}")
        self._strict = policy == "strict"
        self._pool = Pool(workers, timeout)
        self._finalizer = weakref.finalize(self, self._pool.close)

    def verify(self, completion: str, answer: str | Problem, *, kind: str = "math", finished: bool = True) -> Verdict:
        """Judge one completion; arguments and errors as for `verify_many`."""
        return self.verify_many([(completion, answer)], kind=kind, finished=[finished])[0]

    def verify_many(
        self,
        pairs: Sequence[tuple[str, str | Problem]],
        *,
        kind: str = "math",
        finished: Sequence[bool] | None = None,
    ) -> list[Verdict]:
        """Judge completions against their gold answers.

        Args:
            pairs: completions, each with its gold answer; a `Problem` brings its own answer and kind.
            kind: the kind of answers that are plain text (see `sgpo.verifier.kinds`).
            finished: one per pair, False for a completion that was cut off: it has no answer in plain prose, and none
                that reaches its end. All are finished where it is not given.

        Returns:
            One verdict per pair, in the order of the pairs.

        Raises:
            InputError: there is no such kind or function, or a gold answer does not fit its kind.
            ChildProcessError: no worker can be started.
        """
        ends = [True] * len(pairs) if finished is None else finished
        jobs = [
            (completion, answer.answer, answer.kind, end)
            if isinstance(answer, Problem)
            else (completion, answer, kind, end)
            for (completion, answer), end in zip(pairs, ends, strict=True)
        ]
        unique = list(dict.fromkeys(jobs))
        replies = self._pool.run([self._message(*job) for job in unique])
        verdicts = dict(zip(unique, map(_verdict, replies), strict=True))
        return [verdicts[job] for job in jobs]

    def check_problems(self, problems: Iterable[Problem]) -> None:
        """Check, before there are any completions, that problems can be judged, by an empty one.

        Raises:
            InputError: a problem's kind names nothing that can judge, or its gold answer does not fit its kind.
            ChildProcessError: no worker can be started.
        """
        judged: dict[tuple[str, str | None], Problem] = {}
        for problem in problems:
            # A kind takes any gold answer, or reads it; a puzzle's names the function.
            part = {"choice": problem.answer, "puzzle": check_of(problem.answer)}.get(problem.kind)
            if problem.kind != "math":
                judged.setdefault((problem.kind, part), problem)
        for problem in judged.values():
            try:
                self.verify("", problem)
            except UsageError as error:
                raise UsageError(f"problem {problem.id!r}: {error}") from None

    def _message(self, completion: str, answer: str, kind: str, finished: bool) -> dict[str, str | bool]:
        # The answer is at the end; a function of the user's own gets all of the text.
        text = completion[-READ_LIMIT:] if kind in KINDS and kind != "puzzle" else completion
        return {"completion": text, "answer": answer, "kind": kind, "strict": self._strict, "finished": finished}

    def close(self) -> None:
        """Stop the workers. A later call of `verify` starts new ones; a second `close` does nothing."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _verdict(reply: WorkerReply | None) -> Verdict:
    if reply is None:
        return Verdict("timeout")
    if "usage" in reply:
        raise UsageError(reply["usage"])
    if "error" in reply:
        logger.warning("judging an answer failed and counts as a timeout:\n%s", reply["error"])
        return Verdict("timeout")
    return Verdict(reply["verdict"], reply["extracted"])
