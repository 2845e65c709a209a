"""Every option of training: its default, range, meaning and reader, declared at its field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from transformers import TrainingArguments

from sgpo.algorithms import algorithm_class
from sgpo.errors import InputError
from sgpo.prompts import PromptStyle, own_style, read_texts
from sgpo.rollouts.engine import EngineName
from sgpo.rollouts.vllm import VLLMOptions
from sgpo.training.options import (
    NOT_NULL,
    Condition,
    check_combinations,
    check_installed,
    check_ranges,
    configuration_page,
    option,
    refuse_old_names,
    unread_options,
)

NO_TOKEN = "a hub token (hub_token) would be written into the run's files; give it in the environment, as HF_TOKEN"
WRITTEN_FOR_A_TOKEN = "<HUB_TOKEN>"  # what TrainingArguments writes in its place, if there is none too

_VLLM: dict[str, Condition] = {"engine": ("vllm",)}
_COLOCATED: dict[str, Condition] = {**_VLLM, "vllm_mode": ("colocate",)}
_CLIPPED: dict[str, Condition] = {"distill_loss": ("forward_kl", "reverse_kl")}
_ADAPTIVE: dict[str, Condition] = {"distill_weight": ("adaptive",)}


@dataclass
class SGPOConfig(TrainingArguments):
    """Options of `SGPOTrainer`, beyond those of `transformers.TrainingArguments`.

    `per_device_train_batch_size` counts PROBLEMS, where TRL counts completions: with `num_autonomous=8` and
    `num_guided=4`, a batch of 16 problems samples 192 completions. `output_dir` is the run directory.

    Raises:
        InputError: An option is out of its range, has another name now, or would not be read: it differs from its
            default and belongs to another algorithm, engine or loss.
    """

    # Defaults that differ from those of TrainingArguments.
    output_dir: str = option("runs/sgpo", "The run directory.")
    learning_rate: float = option(1e-6, "Peak learning rate of AdamW.", source="TRL's GRPOConfig")
    lr_scheduler_type: str = option("constant", "Learning-rate schedule.")
    logging_steps: float = option(1, "Steps between two rows of metrics.jsonl.")
    dataloader_pin_memory: bool = option(False, "Problems are records, not tensors.")
    remove_unused_columns: bool = option(False, "Problems are records, not columns.")
    hub_strategy: Literal["end"] = option("end", "`push_to_hub` uploads the final model, and no checkpoint.")

    # What is sampled.
    algorithm: str = option("sgpo", "The algorithm, a name in sgpo.algorithms.", source="[baselines](baselines.md)")
    num_autonomous: int = option(
        8,
        "Completions per problem from the autonomous prompt (G1).",
        source="the paper, G1",
        at_least=2,
        why=": a group of one has no advantage",
    )
    num_guided: int = option(
        4,
        "Completions per problem from the guided prompt (G2). An algorithm without a guided group ignores it.",
        source="the paper, G2",
        at_least=0,
        never_refused=True,
    )
    num_iterations: int = option(
        1, "Optimizer steps on each batch of rollouts.", source="GRPO (arXiv 2402.03300), mu", at_least=1
    )
    dynamic_sampling: int = option(
        0,
        "Replace groups without a gradient by other problems, in at most this many rounds; their completions count.",
        source="DAPO (arXiv 2503.14476), section 3.2",
        at_least=0,
    )
    max_prompt_length: int = option(
        1024,
        "Tokens of a prompt. A problem with a longer autonomous prompt is left out; one with a longer guided prompt is "
        "trained without guidance. Both are counted, and nothing is ever cut.",
        at_least=1,
    )
    max_completion_length: int = option(2048, "Tokens of a completion, the end token included.", at_least=1)
    mask_truncated_completions: bool = option(
        False,
        "Leave completions that were cut off at the limit out of the loss.",
        source="DAPO (arXiv 2503.14476), section 3.4",
    )
    soft_punish_cache: int = option(
        0,
        "Take up to 1 off the reward of an autonomous completion that ends in the last so many tokens of its limit.",
        source="TRL's name; DAPO (arXiv 2503.14476), eq. 13",
        at_least=0,
        part="policy gradient",
    )
    temperature: float = option(
        1.0,
        "Temperature of sampling; all logits of the loss are divided by it.",
        source="TRL",
        above=0,
        must="be positive in training",
    )
    top_p: float = option(
        1.0,
        "Must stay 1: a cut biases the importance ratio.",
        source="[method](method.md)",
        at_least=1,
        at_most=1,
        must="be 1 in training",
        why=": tokens outside the cut would bias the importance ratio",
    )
    strategies: Literal["own", "retrieved", "both"] = option(
        "own",
        "Which strategy guides a problem: its own, one of another problem of its kind, or its own if it has one.",
        part="guided prompts",
        only_with={"strategy_content": ("own", "other", "empty")},
    )
    strategy_content: Literal["own", "other", "empty", "solution"] = option(
        "own",
        "What the guided prompt shows: the problem's strategy; another problem's; the kind of problem alone; or the "
        "solution (`opsd`, and ablations).",
        source="ours: ablations",
        part="guided prompts",
    )
    wrong_strategy_fraction: float = option(
        0.0,
        "Fraction of the problems that are given another problem's strategy.",
        source="ours: ablations",
        at_least=0,
        at_most=1,
        part="guided prompts",
    )
    allow_unguided: bool = option(
        False,
        "Train though fewer than a tenth of the problems have a guided prompt, which is refused otherwise.",
        part="guided prompts",
    )
    prompt_style: str = option("math", "The prompts, a name in sgpo.prompts.", source="ours: `sgpo/prompts.py`")
    prompts: dict[str, Any] | str | None = option(
        None,
        "Texts in place of those of `prompt_style`, or a YAML file of them; at the top level of a recipe.",
        source="[prompts](prompts.md#prompts-of-your-own)",
    )
    engine: EngineName = option(
        "hf", "What generates: the model itself, or vLLM (pip install -e '.[vllm]').", source="ours, TRL"
    )
    generation_batch_size: int = option(256, "Completions that are generated at a time.", at_least=1)

    # Engine vllm; names as in TRL's GRPOConfig.
    vllm_mode: Literal["colocate", "server"] = option(
        "colocate",
        "Where vLLM runs: in the training processes, or on GPUs of its own behind an address (`vllm serve`).",
        source="TRL",
        only_with=_VLLM,
    )
    vllm_server_base_url: str = option(
        "http://localhost:8000",
        "Address of the vLLM server.",
        source="TRL",
        only_with={**_VLLM, "vllm_mode": ("server",)},
    )
    vllm_gpu_memory_utilization: float = option(
        0.3,
        "Fraction of a GPU's memory that a colocated vLLM takes.",
        source="TRL",
        above=0,
        at_most=1,
        only_with=_COLOCATED,
    )
    vllm_tensor_parallel_size: int = option(
        1, "GPUs that hold one colocated copy of the model together.", source="TRL", at_least=1, only_with=_COLOCATED
    )
    vllm_enable_sleep_mode: bool = option(
        False,
        "A colocated vLLM gives its memory back while the policy is trained.",
        source="TRL",
        only_with=_COLOCATED,
    )
    vllm_max_model_length: int | None = option(
        None,
        "Tokens of prompt and completion together; null: as many as the run needs.",
        source="TRL",
        only_with=_COLOCATED,
    )
    vllm_importance_sampling_correction: bool = option(
        True,
        "Weigh each token of the policy gradient by min(pi_trainer / pi_vllm, vllm_importance_sampling_clip_max).",
        source="TRL's mode `token_truncate`; Yao et al. 2025",
        part="policy gradient",
        only_with=_VLLM,
    )
    vllm_importance_sampling_clip_max: float = option(
        3.0,
        "Clip on that weight.",
        source="TRL",
        above=0,
        part="policy gradient",
        only_with={**_VLLM, "vllm_importance_sampling_correction": True},
    )

    # The loss.
    max_tokens_per_batch: int = option(
        16384,
        "Tokens, padding included, of one forward and backward: this decides the memory of training. Gradients do not "
        "depend on it.",
        at_least=1,
    )
    clip_low: float = option(
        0.2,
        "The importance ratio is clipped below 1 - clip_low.",
        source="the paper, DAPO",
        at_least=0,
        part="policy gradient",
    )
    clip_high: float = option(
        0.28,
        "The importance ratio is clipped above 1 + clip_high.",
        source="the paper, DAPO",
        at_least=0,
        part="policy gradient",
    )
    scale_advantages: bool = option(
        True,
        "Divide advantages by the group's standard deviation.",
        source="GRPO (arXiv 2402.03300); off: Dr. GRPO (arXiv 2503.20783)",
    )
    loss_mean: Literal["token", "sequence"] = option(
        "token",
        "The policy loss is the mean over all tokens, or over completions of the mean over their tokens.",
        source="DAPO (arXiv 2503.14476); GRPO (arXiv 2402.03300)",
        part="policy gradient",
    )
    importance_sampling_level: Literal["token", "sequence"] = option(
        "token",
        "The importance ratio of each token, or with `sequence` of the completion: the geometric mean over its tokens. "
        "The same thing while `num_iterations` is 1.",
        source="TRL; GSPO (arXiv 2507.18071)",
        part="policy gradient",
    )
    beta: float = option(
        0.0,
        "Factor of the KL between the policy and the weights that training starts from, on autonomous completions.",
        source="TRL; GRPO (arXiv 2402.03300)",
        at_least=0,
        part="policy gradient",
    )
    reward_weights: list[float] | None = option(
        None, "Weights of the trainer's `reward_funcs`; null: 1 each.", source="TRL", part="policy gradient"
    )
    kl_clip: float | None = option(
        1.0,
        "Clip on the divergence of a token; null: no clip.",
        source="the paper, delta",
        above=0,
        must="be positive (or null for no clip)",
        part="divergence",
        only_with=_CLIPPED,
    )
    kl_clip_mode: Literal["scale", "clamp"] = option(
        "scale",
        "`scale` keeps a clipped token's gradient, `clamp` drops it.",
        source="[deviations](deviations.md)",
        part="divergence",
        only_with={**_CLIPPED, "kl_clip": NOT_NULL},
    )
    distill_loss: Literal["forward_kl", "reverse_kl", "sft"] = option(
        "forward_kl",
        "What pulls along the target: a divergence, or with `sft` the target's cross-entropy, without the clip.",
        source="the paper; others are its ablations",
        part="divergence",
    )
    target_sft_coef: float = option(
        0.0,
        "Factor of the target's cross-entropy, without the clip, beside its divergence.",
        source="ours; [what it does](results/conclusions.md)",
        at_least=0,
        part="divergence",
    )
    target_selection: Literal["likelihood", "random"] = option(
        "likelihood",
        "Which correct guided completion is the target: the one the policy finds likeliest, or any.",
        source="the paper; `random` is its ablation",
    )
    distill_weight: Literal["adaptive", "constant"] = option(
        "adaptive",
        "Weight of a target: by the two pass rates of its problem, or distill_weight_base for every one.",
        source="the paper; `constant` is its ablation",
    )
    distill_weight_base: float = option(
        0.5, "Factor of the gain that guidance brings (alpha_0).", source="the paper, alpha_0", at_least=0
    )
    distill_weight_smoothing: float = option(
        0.1,
        "Added to the autonomous pass rate in the weight's denominator (gamma).",
        source="the paper, gamma; [deviations](deviations.md)",
        above=0,
        only_with=_ADAPTIVE,
    )
    distill_weight_max: float = option(
        0.8, "Largest weight of a target (alpha_max).", source="the paper, alpha_max", at_least=0, only_with=_ADAPTIVE
    )
    num_targets: int = option(
        4,
        "`guided_sft` only: imitate at most this many correct guided completions per problem.",
        source="[baselines](baselines.md)",
        at_least=1,
    )
    off_policy_shaping: float = option(
        0.1,
        "`luffy` only: shape the solution's tokens by f(pi) = pi / (pi + this value) (gamma).",
        source="LUFFY (arXiv 2504.14945)",
        above=0,
    )
    imitation_threshold: float = option(
        0.0,
        "`hpt` only: imitate the solution of problems whose pass rate is at most this value (gamma).",
        source="HPT (arXiv 2509.04419)",
        at_least=0,
    )
    policy_coef: float = option(
        1.0, "Factor of the policy gradient.", source="the paper: a plain sum", part="policy gradient"
    )
    distill_coef: float = option(1.0, "Factor of the distillation.", source="the paper: a plain sum", part="divergence")

    # The model and its verifier.
    model_init_kwargs: dict[str, Any] | None = option(
        None,
        "Arguments of from_pretrained, for a model given by its name: `attn_implementation`, or the `dtype` or "
        "`quantization_config` of weights that stay frozen below adapters.",
        source="TRL",
    )
    chat_template_kwargs: dict[str, Any] | None = option(
        None,
        "Variables of the chat template, such as `enable_thinking`; they are saved with the model.",
        source="TRL",
    )
    system_prompt: str | None = option(
        None, "First message of the chat; it is saved with the model, in its chat template."
    )
    pad_token: str | None = option(None, "Pad token for a tokenizer without one (Llama 3).")
    verifier_workers: int = option(2, "Processes that judge answers.", at_least=1)
    verifier_policy: Literal["lenient", "strict"] = option(
        "lenient",
        "`strict` wants the answer in a box, and exact values.",
        source="[verifier](verifier.md)",
    )
    verifier_timeout: float = option(5.0, "Seconds of processor time that judging one answer may take.")

    # The run directory.
    rollout_fraction: float = option(
        1.0,
        "Fraction of the problems whose completions and targets are written, always the same ones; a token takes 5 to "
        "10 bytes.",
        above=0,
        at_most=1,
    )

    # Evaluation during training: `eval_dataset` and TrainingArguments' eval_strategy, eval_steps, eval_on_start.
    eval_samples: int = option(
        4,
        "Completions per problem: the k of avg@k.",
        source="the paper, for MATH500",
        at_least=1,
        read_by="the evaluation",
    )
    eval_temperature: float = option(
        0.6, "Temperature of evaluations; 0 is greedy.", source="the paper", at_least=0, read_by="the evaluation"
    )
    eval_top_p: float = option(
        0.95,
        "Fraction of the probability that evaluations sample from.",
        source="the paper",
        above=0,
        at_most=1,
        read_by="the evaluation",
    )
    eval_max_tokens: int | None = option(
        None, "Tokens of a completion; null: max_completion_length.", at_least=1, read_by="the evaluation"
    )

    def __new__(cls, *arguments: Any, **options: Any) -> SGPOConfig:
        """Refuse old names first: the generated `__init__` would say no more than that they are unexpected."""
        refuse_old_names(options)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if self.hub_token == WRITTEN_FOR_A_TOKEN:
            self.hub_token: str | None = None  # the options of a run's config.json
        if self.hub_token is not None or "token" in (self.model_init_kwargs or {}):
            raise InputError(NO_TOKEN)
        algorithm_class(self.algorithm)
        self.prompts = self.prompts and read_texts(self.prompts, where="prompts")
        _ = self.style  # which refuses
        check_ranges(type(self), vars(self))
        if unread := unread_options(type(self), vars(self)):
            raise InputError(next(iter(unread.values())))
        check_combinations(vars(self))
        if self.eval_max_tokens is None:
            self.eval_max_tokens = self.max_completion_length
        super().__post_init__()
        check_installed(self)

    def to_dict(self) -> dict[str, Any]:
        """The options as plain values; TrainingArguments takes whatever ends in `_token` for a key."""
        return {**super().to_dict(), "pad_token": self.pad_token}

    @property
    def style(self) -> PromptStyle:
        """The prompts: those of `prompt_style`, with the texts of `prompts` in their place."""
        return own_style(dict(self.prompts or {}), self.prompt_style)  # type: ignore[arg-type]  # a file is read

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


# The sections of docs/configuration.md, each by its first option.
SECTIONS = {
    "output_dir": "Changed defaults of TrainingArguments",
    "algorithm": "What is sampled",
    "vllm_mode": "Engine `vllm`",
    "max_tokens_per_batch": "The loss",
    "model_init_kwargs": "The model and its verifier",
    "rollout_fraction": "The run directory",
    "eval_samples": "Evaluation during training",
}


if __name__ == "__main__":
    print(configuration_page(SGPOConfig, SECTIONS), end="")
