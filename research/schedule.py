"""Run a study, two runs at a time on two cores; a finished run is never made again."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from research.plan import Study, StudyRun, WarmupKind
from research.results import read_result
from sgpo.training.run_directory import provenance

if TYPE_CHECKING:
    from sgpo.verifier import Verifier


PROCESSES = 2

_verifier: Verifier | None = None


def run_study(study: Study, runs: Sequence[StudyRun]) -> int:
    """Make the warm-ups that the runs start from, then the runs that are missing. Returns how many runs were made.

    A run that fails ends the study; finished runs are kept, and a later start makes the rest.
    """
    missing = [run for run in dict.fromkeys(runs) if read_result(study, run) is None]
    if not missing:
        return 0
    environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ.update(environment)  # before the processes start: each is to use one core
    origin = {key: value for key, value in provenance().items() if key != "versions"}
    context = get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context, initializer=_prepare_process) as pool:
        warmups = list(dict.fromkeys((run.warmup_kind, run.warmup) for run in missing))
        for warmed_up in [pool.submit(_warm_up, study, kind, warmup) for kind, warmup in warmups]:
            warmed_up.result()  # raises what the process raised
        start = time.perf_counter()
        futures = [pool.submit(_run, study, run, origin) for run in missing]
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                result = future.result()
                fresh = next(iter(result["scores"]["fresh"].values()))
                print(
                    f"{number}/{len(missing)} {result['arm']} r{result['replicate']}: fresh {fresh:.3f}, "
                    f"{time.perf_counter() - start:.0f} s since the first",
                    file=sys.stderr,
                    flush=True,
                )
        except BaseException:
            pool.shutdown(cancel_futures=True)  # waits for the runs under way
            raise
    return len(missing)


def _prepare_process() -> None:
    """Set one thread, and make one verifier for all runs of this process."""
    global _verifier
    import torch
    from transformers.utils import logging

    from sgpo.verifier import Verifier

    sys.stdout = sys.stderr  # standard output is the command's result
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    _verifier = Verifier(workers=1)


def _warm_up(study: Study, kind: WarmupKind, warmup: int) -> None:
    from research.run import make_warmup

    make_warmup(study, kind, warmup)


def _run(study: Study, run: StudyRun, origin: dict[str, Any]) -> dict[str, Any]:
    from research.run import make_run

    assert _verifier is not None
    return make_run(study, run, _verifier, origin)
