"""The `vllm` engines: one for the policy in training, through TRL's `VLLMGeneration`, one for evaluating a saved model.

vLLM is no dependency of ours: `pip install -e '.[vllm]'` on a machine with a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch.distributed.tensor import DTensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from sgpo.errors import InputError
from sgpo.rollouts.engine import Completion, Sampling, end_token_ids
from sgpo.rollouts.models import is_adapter, is_quantized, load_policy, resolve_model

# Both engines ask for these, so that neither vLLM's defaults nor the model's generation_config decide anything.
NEUTRAL = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
NEUTRAL_PENALTIES = {"presence_penalty": 0.0, "frequency_penalty": 0.0, "min_tokens": 0, "ignore_eos": False}
QUANTIZED_WITH_VLLM = (
    "engine=vllm samples from whole weights, which a policy in 4 or 8 bits (quantization_config) cannot hand over; set "
    "engine=hf, or train the adapters above 16-bit weights (dtype: bfloat16 in model_init_kwargs)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VLLMOptions:
    """Options of `trl.generation.VLLMGeneration`.

    `mode`: vLLM runs in the training processes (`colocate`) or behind an address (`server`, started by `vllm serve`).
    """

    mode: Literal["colocate", "server"] = "colocate"
    server_base_url: str = "http://localhost:8000"
    gpu_memory_utilization: float = 0.3
    tensor_parallel_size: int = 1
    enable_sleep_mode: bool = False
    max_model_length: int | None = None


class VLLMEngine:
    """Samples from the policy in training, whose weights `sync_weights` hands to vLLM.

    A call has one set of options for all prompts, so `seeds` have no effect: vLLM draws from a stream of its own, and
    neither a second run nor a resumed one samples the same completions.
    """

    def __init__(self, generation: Any, *, pad_id: int, eos_ids: Sequence[int]) -> None:
        """`generation`: a `VLLMGeneration`."""
        self.generation = generation
        self.pad_id = pad_id
        self.eos_ids = list(eos_ids)

    def sync_weights(self, model: Any) -> None:
        self.generation.model = model
        with _base_unchanged(model):
            self.generation.sync_weights()

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seeds: Sequence[int]
    ) -> list[Completion]:
        assert len(prompts) == len(seeds)
        options = NEUTRAL | {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_completion_length": sampling.max_tokens,
            "logprobs": 0,  # that of the sampled token alone
            "generation_kwargs": NEUTRAL_PENALTIES | {"stop_token_ids": self.eos_ids},
        }
        for name, value in options.items():
            setattr(self.generation, name, value)
        rows = self._fill_up([list(prompt) for prompt in prompts])
        if not rows:
            return []
        # Both groups in one call: each prompt as often as it has completions, one of each.
        _, token_ids, logprobs, _ = self.generation.generate(rows, images=None, num_generations=1)
        return [
            _completion(ids, [values[0] for values in row], sampling, self.eos_ids)
            for ids, row, _ in zip(token_ids, logprobs, prompts, strict=False)  # leaves out what was added
        ]

    def _fill_up(self, prompts: list[list[int]]) -> list[list[int]]:
        """Add dummy prompts up to the largest number that any process has.

        A server, or vLLM on several GPUs, cuts the completions of all processes into parts of one size.
        """
        generation = self.generation
        accelerator = generation.accelerator
        if accelerator.num_processes == 1 or (generation.mode == "colocate" and generation.tensor_parallel_size == 1):
            return prompts
        most = int(accelerator.gather(torch.tensor([len(prompts)], device=accelerator.device)).max())
        return prompts + [[self.pad_id]] * (most - len(prompts))


@contextmanager
def _base_unchanged(model: Any) -> Iterator[None]:
    """Keep the frozen weights below adapters as they are, to the bit.

    TRL merges the adapters into them in place, and subtracts them again: in 16 bits, each time leaves other weights.
    A copy lies in main memory meanwhile.
    """
    frozen = [
        parameter.to_local() if isinstance(parameter, DTensor) else parameter
        for layer in (getattr(module, "base_layer", None) for module in model.modules())
        if layer is not None
        for parameter in layer.parameters()
    ]
    copies = [parameter.detach().to("cpu", copy=True) for parameter in frozen]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, copy in zip(frozen, copies, strict=True):
                parameter.copy_(copy)


class OfflineVLLM:
    """Samples from a saved model, whose weights never change: the engine of `sgpo eval --engine vllm`.

    vLLM draws from `seeds` in its own way: equal seeds give equal completions on the same machine and version, but not
    those of the `hf` engine.
    """

    def __init__(self, model: str, *, eos_ids: Sequence[int], **options: Any) -> None:
        """`options`: more of `vllm.LLM`'s."""
        from vllm import LLM

        self.llm = LLM(model=model, logprobs_mode="processed_logprobs", **options)
        self.eos_ids = list(eos_ids)

    @property
    def context(self) -> int:
        """The tokens that a prompt and its completion may have together."""
        return int(self.llm.model_config.max_model_len)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seeds: Sequence[int]
    ) -> list[Completion]:
        from vllm import SamplingParams

        options = NEUTRAL | NEUTRAL_PENALTIES | {"temperature": sampling.temperature, "top_p": sampling.top_p}
        params = [
            SamplingParams(
                **options, max_tokens=sampling.max_tokens, stop_token_ids=self.eos_ids, seed=seed, logprobs=0
            )
            for seed in seeds
        ]
        outputs = self.llm.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts], params, use_tqdm=False)
        return [
            _completion(
                list(output.token_ids),
                [values[token].logprob for token, values in zip(output.token_ids, output.logprobs, strict=True)],
                sampling,
                self.eos_ids,
            )
            for request in outputs
            for output in request.outputs
        ]


def load_offline_vllm(name: str, tokenizer: PreTrainedTokenizerBase, **options: Any) -> OfflineVLLM:
    """Load a saved model into vLLM.

    Args:
        name: A path, a hub id or a run directory. vLLM reads weights from a directory, so an adapter is merged into a
            temporary one.
        tokenizer: The model's.
        options: More of `vllm.LLM`'s.

    Raises:
        InputError: vLLM is not installed, or there is no such model.
    """
    check_vllm()
    source = resolve_model(name)
    with TemporaryDirectory() as merged:
        if is_adapter(source):
            load_policy(source, dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32).save_pretrained(
                merged
            )
            tokenizer.save_pretrained(merged)
            source = merged
        try:
            generation_config = GenerationConfig.from_pretrained(source)
        except OSError:
            generation_config = None  # a model need not have one
        eos_ids = end_token_ids(SimpleNamespace(generation_config=generation_config), tokenizer)
        return OfflineVLLM(source, eos_ids=eos_ids, **options)


def build_vllm_engine(
    model: Any,
    tokenizer: Any,
    accelerator: Any,
    options: VLLMOptions,
    *,
    eos_ids: Sequence[int],
    max_sequences: int,
) -> VLLMEngine:
    """Build the engine of a policy in training; it samples at most `max_sequences` completions at a time.

    Raises:
        InputError: vLLM is not installed, or its server cannot serve a trainer.
    """
    check_vllm()
    if is_quantized(model):
        raise InputError(QUANTIZED_WITH_VLLM)
    if options.mode == "colocate" and not model.name_or_path:
        raise InputError(
            "the vllm engine loads a model by its path or hub id, and this one has none; save it and load it"
        )
    from trl.generation.vllm_generation import VLLMGeneration

    generation = VLLMGeneration(
        model,
        accelerator,
        tokenizer,
        mode=options.mode,
        server_base_url=options.server_base_url if options.mode == "server" else None,
        gpu_memory_utilization=options.gpu_memory_utilization,
        tensor_parallel_size=options.tensor_parallel_size,
        enable_sleep_mode=options.enable_sleep_mode,
        max_model_length=options.max_model_length,
        max_num_seqs=max_sequences,
    )
    if options.mode == "server" and accelerator.is_main_process:
        mode = generation.vllm_client.get_server_info()["model_config"]["logprobs_mode"]
        if mode != "processed_logprobs":
            raise InputError(
                f"{options.server_base_url}: this vLLM server gives {mode}, which are not those of the distribution "
                "that it samples from; restart it with --logprobs-mode processed_logprobs"
            )
    return VLLMEngine(generation, pad_id=tokenizer.pad_token_id, eos_ids=eos_ids)


def check_vllm() -> None:
    """Check that vLLM is installed.

    Raises:
        InputError: it is not.
    """
    if find_spec("vllm") is None:
        raise InputError(
            "the vllm engine needs vLLM, which is not installed; pip install -e '.[vllm]' in the source tree of sgpo, "
            "on a machine with a GPU, or use the hf engine"
        )


def _completion(
    token_ids: list[int], logprobs: list[float | None], sampling: Sampling, eos_ids: Sequence[int]
) -> Completion:
    # vLLM gives log-probabilities of the distribution that it samples from. After a top-p cut, or greedy, those are not
    # the ones that `Completion` promises.
    faithful = sampling.top_p == 1 and sampling.temperature > 0
    values = [math.nan if value is None else value for value in logprobs] if faithful else []
    return Completion(token_ids, bool(token_ids) and token_ids[-1] in eos_ids, values)
