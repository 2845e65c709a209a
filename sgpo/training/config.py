"""Every option of training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from transformers import TrainingArguments

from sgpo.algorithms import algorithm_class
from sgpo.errors import InputError
from sgpo.prompts import prompt_style
from sgpo.rollouts.engine import EngineName
from sgpo.rollouts.vllm import VLLMOptions

NO_TOKEN = "a hub token (hub_token) would be written into the run's files; give it in the environment, as HF_TOKEN"


@dataclass
class SGPOConfig(TrainingArguments):
    """Options of `SGPOTrainer`, beyond those of `transformers.TrainingArguments`.

    `per_device_train_batch_size` counts PROBLEMS, where TRL counts completions: with `num_autonomous=8` and
    `num_guided=4`, a batch of 16 problems samples 192 completions. `output_dir` is the run directory.

    Raises InputError for an option out of its range.
    """

    # Defaults that differ from TrainingArguments.
    output_dir: str = field(default="runs/sgpo", metadata={"help": "The run directory."})
    learning_rate: float = field(default=1e-6, metadata={"help": "Peak learning rate of AdamW."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Learning-rate schedule."})
    logging_steps: float = field(default=1, metadata={"help": "Steps between two rows of metrics.jsonl."})
    dataloader_pin_memory: bool = field(default=False, metadata={"help": "Problems are records, not tensors."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Problems are records, not columns."})
    hub_strategy: Literal["end"] = field(
        default="end",
        metadata={"help": "`push_to_hub` uploads the final model, once it is trained, and no checkpoint."},
    )

    # What to sample.
    algorithm: str = field(default="sgpo", metadata={"help": "A name in sgpo.algorithms."})
    num_autonomous: int = field(default=8, metadata={"help": "Completions per problem from the plain prompt (G1)."})
    num_guided: int = field(
        default=4,
        metadata={"help": "Completions per problem from the guided prompt (G2), where the algorithm samples any."},
    )
    num_iterations: int = field(default=1, metadata={"help": "Optimizer steps on each batch of rollouts."})
    dynamic_sampling: int = field(
        default=0,
        metadata={
            "help": "At most so many rounds in which other problems replace groups without a gradient; their "
            "completions count (DAPO, arXiv 2503.14476, section 3.2)."
        },
    )
    max_prompt_length: int = field(
        default=1024,
        metadata={
            "help": "Tokens. A problem whose plain prompt is longer is left out, one whose guided prompt alone is "
            "longer is trained autonomously; both are counted. Nothing is ever cut."
        },
    )
    max_completion_length: int = field(default=2048, metadata={"help": "Tokens, the end token included."})
    mask_truncated_completions: bool = field(
        default=False,
        metadata={"help": "Leave completions cut off at the limit out of the policy loss (DAPO, arXiv 2503.14476)."},
    )
    temperature: float = field(default=1.0, metadata={"help": "Of sampling; all logits are divided by it."})
    top_p: float = field(default=1.0, metadata={"help": "Must stay 1: a cut biases the importance ratio."})
    strategies: Literal["own", "retrieved", "both"] = field(
        default="own",
        metadata={"help": "A problem's own strategy, one of another problem of its kind, or its own if it has one."},
    )
    strategy_content: Literal["own", "other", "empty", "solution"] = field(
        default="own",
        metadata={
            "help": "What the guided prompt shows: the problem's strategy; another problem's; the kind of problem "
            "alone; or the solution (opsd, and ablations)."
        },
    )
    wrong_strategy_share: float = field(
        default=0.0, metadata={"help": "Share of the problems that are given another problem's strategy."}
    )
    prompt_style: str = field(default="math", metadata={"help": "A style in sgpo.prompts."})
    engine: EngineName = field(
        default="hf", metadata={"help": "What generates: the model itself, or vLLM (pip install 'sgpo[vllm]')."}
    )
    generation_batch_size: int = field(default=256, metadata={"help": "Completions that are generated at a time."})

    # Engine vllm; names as in TRL's GRPOConfig.
    vllm_mode: Literal["colocate", "server"] = field(
        default="colocate",
        metadata={"help": "In the training processes, or on GPUs of its own behind an address (`vllm serve`)."},
    )
    vllm_server_base_url: str = field(default="http://localhost:8000", metadata={"help": "Where the server listens."})
    vllm_gpu_memory_utilization: float = field(
        default=0.3, metadata={"help": "The share of a GPU's memory that a colocated vLLM takes."}
    )
    vllm_tensor_parallel_size: int = field(
        default=1, metadata={"help": "GPUs that share one colocated copy of the model."}
    )
    vllm_enable_sleep_mode: bool = field(
        default=False, metadata={"help": "A colocated vLLM gives its memory back while the policy is trained."}
    )
    vllm_max_model_length: int | None = field(
        default=None, metadata={"help": "Tokens of prompt and completion together; what the run needs, if not given."}
    )
    vllm_importance_sampling_correction: bool = field(
        default=True,
        metadata={
            "help": "Weigh each token by min(pi_trainer / pi_vllm, vllm_importance_sampling_clip_max) in the policy "
            "loss (truncated importance sampling, Yao et al. 2025)."
        },
    )
    vllm_importance_sampling_clip_max: float = field(default=3.0, metadata={"help": "The cap on that weight; as TRL."})

    max_tokens_per_batch: int = field(
        default=16384,
        metadata={
            "help": "Tokens, padding included, of one forward and backward in training: what decides its memory. "
            "Gradients do not depend on it."
        },
    )

    # The loss.
    clip_low: float = field(default=0.2, metadata={"help": "The importance ratio is clipped below 1 - clip_low."})
    clip_high: float = field(default=0.28, metadata={"help": "The importance ratio is clipped above 1 + clip_high."})
    scale_advantages: bool = field(
        default=True, metadata={"help": "Divide advantages by the group's std; Dr. GRPO does not (arXiv 2503.20783)."}
    )
    loss_mean: Literal["token", "sequence"] = field(
        default="token",
        metadata={
            "help": "The policy loss is the mean over all tokens (DAPO, arXiv 2503.14476), or over completions of the "
            "mean over their tokens (GRPO, arXiv 2402.03300)."
        },
    )
    kl_clip: float | None = field(default=1.0, metadata={"help": "Cap on the divergence of a token; null for none."})
    kl_clip_mode: Literal["scale", "clamp"] = field(
        default="scale", metadata={"help": "`scale` keeps a capped token's gradient, `clamp` drops it."}
    )
    distill_loss: Literal["forward_kl", "reverse_kl", "sft"] = field(
        default="forward_kl",
        metadata={"help": "What pulls along the target; `sft` is its cross-entropy, without the clip."},
    )
    target_sft_coef: float = field(
        default=0.0, metadata={"help": "Factor of the target's cross-entropy, uncapped, beside its divergence."}
    )
    target_selection: Literal["likelihood", "random"] = field(
        default="likelihood", metadata={"help": "Which correct guided completion is the target."}
    )
    distill_weight: Literal["adaptive", "constant"] = field(
        default="adaptive", metadata={"help": "`constant` gives every target the weight distill_weight_base."}
    )
    distill_weight_base: float = field(default=0.5, metadata={"help": "alpha_0."})
    distill_weight_smoothing: float = field(default=0.1, metadata={"help": "gamma."})
    distill_weight_max: float = field(default=0.8, metadata={"help": "alpha_max."})
    num_targets: int = field(
        default=4, metadata={"help": "Of `guided_sft`: correct guided completions per problem to imitate, at most."}
    )
    off_policy_shaping: float = field(
        default=0.1, metadata={"help": "Of `luffy`: gamma of f(pi) = pi / (pi + gamma) on the solution's tokens."}
    )
    imitation_threshold: float = field(
        default=0.0, metadata={"help": "Of `hpt`: a pass rate not above it has the solution imitated (gamma)."}
    )
    policy_coef: float = field(default=1.0, metadata={"help": "Factor of the policy gradient."})
    distill_coef: float = field(default=1.0, metadata={"help": "Factor of the distillation."})

    # The model and its verifier.
    model_init_kwargs: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Of from_pretrained, for a model given by its name: `attn_implementation`, or `dtype` of weights "
            "that stay frozen below adapters."
        },
    )
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None,
        metadata={"help": "Variables of the chat template, such as `enable_thinking`; they are saved with the model."},
    )
    system_prompt: str | None = field(
        default=None, metadata={"help": "What the chat begins with; it is saved with the model, in its chat template."}
    )
    pad_token: str | None = field(default=None, metadata={"help": "For a tokenizer without one (Llama 3)."})
    verifier_workers: int = field(default=2, metadata={"help": "Processes that judge answers."})
    verifier_policy: Literal["lenient", "strict"] = field(
        default="lenient", metadata={"help": "`strict` wants the answer in a box, and exact values (docs/verifier.md)."}
    )
    verifier_timeout: float = field(default=5.0, metadata={"help": "Seconds per answer."})

    # Evaluation during training: `eval_dataset` and TrainingArguments' eval_strategy, eval_steps, eval_on_start.
    eval_samples: int = field(default=4, metadata={"help": "Completions per problem: the k of avg@k."})
    eval_temperature: float = field(default=0.6, metadata={"help": "The paper's; 0 is greedy."})
    eval_top_p: float = field(default=0.95, metadata={"help": "The paper's."})
    eval_max_tokens: int | None = field(default=None, metadata={"help": "max_completion_length, if not given."})

    def __post_init__(self) -> None:
        for name, choices in _choices().items():
            if getattr(self, name) not in choices:
                raise InputError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.hub_token is not None or "token" in (self.model_init_kwargs or {}):
            raise InputError(NO_TOKEN)
        algorithm_class(self.algorithm)
        prompt_style(self.prompt_style)
        for name, low in _AT_LEAST.items():
            if not getattr(self, name) >= low:
                raise InputError(f"{name} must be at least {low}, got {getattr(self, name)}{_WHY.get(name, '')}")
        if self.dynamic_sampling and self.num_iterations > 1:
            raise InputError(
                f"dynamic_sampling={self.dynamic_sampling} needs num_iterations=1, got {self.num_iterations}: later "
                "updates repeat the problems that it replaced"
            )
        if self.top_p != 1.0:
            raise InputError(
                f"top_p must be 1 in training, got {self.top_p}: tokens outside the cut would bias the importance ratio"
            )
        if not self.temperature > 0:
            raise InputError(f"temperature must be positive in training, got {self.temperature}")
        if not 0 < self.eval_top_p <= 1:
            raise InputError(f"eval_top_p must lie in (0, 1], got {self.eval_top_p}")
        if self.kl_clip is not None and not self.kl_clip > 0:
            raise InputError(f"kl_clip must be positive (or null for no cap), got {self.kl_clip}")
        if not self.distill_weight_smoothing > 0 or math.isnan(self.distill_weight_smoothing):
            raise InputError(f"distill_weight_smoothing must be positive, got {self.distill_weight_smoothing}")
        if not self.vllm_importance_sampling_clip_max > 0:
            raise InputError(
                f"vllm_importance_sampling_clip_max must be positive, got {self.vllm_importance_sampling_clip_max}"
            )
        if not 0 < self.vllm_gpu_memory_utilization <= 1:
            raise InputError(f"vllm_gpu_memory_utilization must lie in (0, 1], got {self.vllm_gpu_memory_utilization}")
        if not 0 <= self.wrong_strategy_share <= 1:
            raise InputError(f"wrong_strategy_share must lie in [0, 1], got {self.wrong_strategy_share}")
        if self.wrong_strategy_share and self.strategy_content != "own":
            raise InputError(
                f"wrong_strategy_share={self.wrong_strategy_share} needs strategy_content='own', got "
                f"{self.strategy_content!r}"
            )
        if not self.off_policy_shaping > 0 or math.isnan(self.off_policy_shaping):
            raise InputError(f"off_policy_shaping must be positive, got {self.off_policy_shaping}")
        if self.eval_max_tokens is None:
            self.eval_max_tokens = self.max_completion_length
        if self.eval_max_tokens < 1:
            raise InputError(f"eval_max_tokens must be at least 1, got {self.eval_max_tokens}")
        super().__post_init__()

    def to_dict(self) -> dict[str, Any]:
        """The options as plain values; TrainingArguments takes whatever ends in `_token` for a key."""
        return {**super().to_dict(), "pad_token": self.pad_token}

    @property
    def global_batch_size(self) -> int:
        """The problems of one optimizer step, all processes together."""
        size: int = self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size
        return size

    def vllm_options(self, *, longest: int) -> VLLMOptions:
        """The options of engine vllm; `longest`: the tokens of the run's longest prompt and completion together."""
        return VLLMOptions(
            mode=self.vllm_mode,
            server_base_url=self.vllm_server_base_url,
            gpu_memory_utilization=self.vllm_gpu_memory_utilization,
            tensor_parallel_size=self.vllm_tensor_parallel_size,
            enable_sleep_mode=self.vllm_enable_sleep_mode,
            max_model_length=self.vllm_max_model_length or longest,
        )


_AT_LEAST = {
    "num_autonomous": 2,
    "num_guided": 0,
    "num_targets": 1,
    "target_sft_coef": 0.0,
    "imitation_threshold": 0.0,
    "num_iterations": 1,
    "dynamic_sampling": 0,
    "max_prompt_length": 1,
    "max_completion_length": 1,
    "generation_batch_size": 1,
    "vllm_tensor_parallel_size": 1,
    "max_tokens_per_batch": 1,
    "clip_low": 0.0,
    "clip_high": 0.0,
    "distill_weight_base": 0.0,
    "distill_weight_max": 0.0,
    "eval_samples": 1,
    "eval_temperature": 0.0,
    "verifier_workers": 1,
}
_WHY = {"num_autonomous": ": a group of one has no advantage"}


def _choices() -> dict[str, tuple[str, ...]]:
    """The options that are a choice of words, read off their types."""
    hints = get_type_hints(SGPOConfig)
    arguments = {name: get_args(hints[name]) for name in SGPOConfig.__annotations__}
    return {name: words for name, words in arguments.items() if words and all(isinstance(w, str) for w in words)}
