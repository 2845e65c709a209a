"""Time and peak memory of the chunked divergence, side by side with the naive form and with TRL's chunked kernel.

    OMP_NUM_THREADS=2 python benchmarks/divergence.py [--tokens 256 1024 4096] [--rounds 3] [--dtype float32] [--json]

Forward and backward at the shape of Qwen2.5-1.5B's head (V = 151,936, H = 1,536), with the head trained and frozen.
Every measurement runs in a process of its own; the forms take turns, so that other work on the machine falls on all of
them. Time is the processor's (on a GPU the wall's); memory is the peak beyond inputs and returned gradients.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import threading
import time
from pathlib import Path

import torch

VOCABULARY, HIDDEN = 151_936, 1_536
FORMS = ("ours", "naive", "trl")


def divergence(form, unguided, guided, head):
    if form == "ours":
        from sgpo.objective import chunked_token_divergence

        return chunked_token_divergence(unguided, guided, head)
    if form == "naive":
        from sgpo.objective import token_divergence

        return token_divergence(unguided @ head.T, guided @ head.detach().T)
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    return ChunkedDivergenceFunction.apply(unguided, head, None, guided, head.detach(), None, 0.0)[0]


class PeakMemory:
    """The most resident memory of this process beyond what it held at the start, in bytes (on a GPU: of the device)."""

    def __init__(self, device):
        self.device, self.stop = device, threading.Event()

    def resident(self):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    def __enter__(self):
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
            return self
        self.start = self.peak = self.resident()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.stop.wait(0.002):
            self.peak = max(self.peak, self.resident())

    def __exit__(self, *_):
        if self.device == "cuda":
            self.bytes = torch.cuda.max_memory_allocated() - self.start
            return
        self.stop.set()
        self.thread.join()
        self.bytes = max(self.peak, self.resident()) - self.start


def measure(form, tokens, frozen, dtype, device, queue):
    generator = torch.Generator().manual_seed(0)
    unguided, guided = (torch.randn(tokens, HIDDEN, generator=generator) for _ in range(2))
    head = torch.randn(VOCABULARY, HIDDEN, generator=generator) / HIDDEN**0.5
    unguided, guided, head = (x.to(device, getattr(torch, dtype)) for x in (unguided, guided, head))
    unguided.requires_grad_()
    head.requires_grad_(not frozen)
    divergence(form, unguided[:2], guided[:2], head).sum().backward()  # what only the first call does
    for leaf in (unguided, head):
        if leaf.requires_grad:
            leaf.grad = None
    gradients = sum(leaf.numel() * leaf.element_size() for leaf in (unguided, head) if leaf.requires_grad)
    clock = time.process_time if device == "cpu" else time.perf_counter
    with PeakMemory(device) as memory:
        start = clock()
        values = divergence(form, unguided, guided, head)
        (values * torch.linspace(0.1, 1.0, tokens, device=device)).sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = clock() - start
    queue.put((seconds, memory.bytes - gradients, values.detach().mean().item()))


def run(form, tokens, frozen, dtype, device):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measure, args=(form, tokens, frozen, dtype, device, queue))
    process.start()
    while process.is_alive() and queue.empty():
        process.join(0.2)
    result = None if queue.empty() else queue.get()
    process.join()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for tokens in args.tokens:
        for frozen in (False, True):
            results = {form: [] for form in FORMS}
            for _ in range(args.rounds):
                for form in FORMS:
                    # The naive form holds about five T x V matrices at once.
                    fits = form != "naive" or device == "cuda" or tokens * VOCABULARY * 4 * 7 < 18e9
                    if fits and (result := run(form, tokens, frozen, args.dtype, device)) is not None:
                        results[form].append(result)
            row = {"tokens": tokens, "head": "frozen" if frozen else "trained", "dtype": args.dtype, "device": device}
            for form, measured in results.items():
                if measured:
                    row[form] = {
                        "seconds": round(statistics.median(seconds for seconds, _, _ in measured), 2),
                        "mebibytes": round(statistics.median(bytes_ for _, bytes_, _ in measured) / 2**20),
                        "mean": measured[0][2],
                    }
            rows.append(row)
            if not args.json:
                print(describe(row), flush=True)
    if args.json:
        print(json.dumps(rows, indent=2))


def describe(row):
    ours = row["ours"]
    parts = [f"T={row['tokens']} {row['head']} head: ours {ours['seconds']} s, {ours['mebibytes']} MiB"]
    for form in ("naive", "trl"):
        if form in row:
            other = row[form]
            assert abs(other["mean"] - ours["mean"]) < 0.01 * abs(ours["mean"]), f"{form} computes something else"
            parts.append(
                f"{form} {other['seconds']} s, {other['mebibytes']} MiB"
                f" (time {ours['seconds'] / other['seconds']:.2f}, memory {ours['mebibytes'] / other['mebibytes']:.3f})"
            )
        else:
            parts.append(f"{form} does not fit")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
