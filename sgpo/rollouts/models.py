"""Policies: any Hugging Face causal language model and its tokenizer, by path or hub id.

What a user sets of a chat template becomes part of the template. The tokenizer is saved with the model, so training,
evaluation and whoever serves the model later see the same prompts.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HTTPError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from sgpo.errors import InputError

# Options of from_pretrained that quantize.
_QUANTIZING = {"quantization_config", "load_in_4bit", "load_in_8bit"}
_NO_CODE = {"trust_remote_code": False}  # unless it is set; from_pretrained would ask on the terminal

logger = logging.getLogger("sgpo")

# The files that `from_pretrained` reads: weights, configs, chat template, vocabulary; not an optimizer (.pt).
MODEL_FILES = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt"}
QUANTIZED_WITHOUT_ADAPTERS = (
    "quantized weights (quantization_config in model_init_kwargs) cannot be trained themselves; train adapters above "
    "them: a lora section, or peft_config"
)
CONFIG_FILES = ("config.json", "adapter_config.json")  # of a whole model, and of an adapter


def policy_name(model: Any, init_kwargs: Mapping[str, Any] | None) -> str:
    """The path or hub id of a policy that is given by it, or that was loaded from it.

    Raises:
        InputError: `init_kwargs` are given for a policy that is loaded already.
    """
    if isinstance(model, str | Path):
        return str(model)
    if init_kwargs:
        raise InputError(
            "model_init_kwargs is for a model that is given by its name, and this one is loaded already; give them to "
            "its from_pretrained"
        )
    return str(model.config._name_or_path)


def policy_config(model: Any, *, adapters: bool, **options: Any) -> Any:
    """The config of a model that is to be trained; of one given by its name before any of its weights are loaded.

    Args:
        model: A model; or a path, a hub id or a run directory, where an adapter has the config of its base model.
        adapters: Whether adapters are trained, not the model itself.
        options: As for `load_policy`.

    Raises:
        InputError: there is no such model, or its weights are quantized and to be trained themselves.
    """
    config = _load_config(model, **options) if isinstance(model, str | Path) else model.config
    quantized = bool(getattr(config, "quantization_config", None) or _QUANTIZING & options.keys())
    if quantized and not adapters and not (isinstance(model, str | Path) and is_adapter(resolve_model(model))):
        raise InputError(QUANTIZED_WITHOUT_ADAPTERS)
    return config


def _load_config(name: str | Path, **options: Any) -> Any:
    source = resolve_model(name)
    try:
        source = resolve_model(_base_model(source)) if is_adapter(source) else source
        options = _NO_CODE | {key: options[key] for key in options if key != "dtype"}
        return AutoConfig.from_pretrained(source, **options)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(_unloadable(name, source, "model", error)) from error


def context_length(config: Any) -> int | None:
    """The most tokens of prompt and completion together that a model was made for; None where its config has none."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    if rope.get("rope_type", rope.get("type")) in ("linear", "dynamic", "yarn"):
        # Some configs name the positions before they are stretched, some those after.
        stretched = float(rope.get("factor") or 1) * (rope.get("original_max_position_embeddings") or positions)
        return max(positions, int(stretched))
    return positions


def load_policy(name: str | Path, *, dtype: torch.dtype | str = torch.float32, **options: Any) -> Any:
    """Load a model. An adapter (LoRA) is merged into the weights of its base model.

    Args:
        name: A path, a hub id or a run directory.
        dtype: The type of the weights. Training wants float32 (with `bf16=True` for the arithmetic): small updates
            vanish in bfloat16.
        options: More of `from_pretrained`'s. Code that comes with the model runs only with `trust_remote_code`.

    Raises:
        InputError: there is no such model, or `from_pretrained` does not know an option.
    """
    source, options = resolve_model(name), _NO_CODE | options
    try:
        if is_adapter(source):
            return _load_merged(source, dtype=dtype, **options)
        return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options)
    except ImportError as error:  # of what an option asks for: bitsandbytes, flash-attn
        raise InputError(f"{name}: {' '.join(str(error).split())}") from error
    except (OSError, ValueError, TypeError) as error:
        raise InputError(_unloadable(name, source, "model", error)) from error


def _load_merged(source: str, **options: Any) -> Any:
    from peft import PeftModel

    # Not AutoPeftModel: it cuts the embeddings to the tokenizer's length, which is shorter in Qwen2.5.
    model = AutoModelForCausalLM.from_pretrained(resolve_model(_base_model(source)), **options)
    adapted = PeftModel.from_pretrained(model, source)
    check_adapters(adapted)
    return adapted.merge_and_unload()


def _base_model(source: str) -> str | Path:
    """The model below an adapter."""
    from peft import PeftConfig

    base: str = PeftConfig.from_pretrained(source).base_model_name_or_path
    warmed_up = Path(source).parent / "warmup"
    if not Path(base).exists() and Path(base).name == "warmup" and warmed_up.is_dir():
        return warmed_up  # the adapter of a run on its own warm-up: the run directory was moved
    return base


def is_adapter(source: str | Path) -> bool:
    """Whether a directory holds an adapter in place of a whole model."""
    return (Path(source) / "adapter_config.json").is_file()


def is_quantized(model: Any) -> bool:
    """Whether a model, or the one below its adapters, holds its weights in 4 or 8 bits."""
    return getattr(model, "quantization_method", None) is not None


def check_adapters(model: Any) -> None:
    """Check that a model with adapters can be merged into a whole one: saving, loading and vLLM do that.

    Raises:
        InputError: the adapters are no change of weights (prompt tuning), or they change one of two embeddings that
            share their weights, where merging them would change the other one too.
    """
    if not hasattr(model, "peft_config"):
        return
    for config in model.peft_config.values():
        if config.is_prompt_learning:
            raise InputError(f"peft_config: {config.peft_type.value} is no change of weights; train LoRA adapters")
    base = model.get_base_model()
    embeddings = {"embed_tokens": base.get_input_embeddings(), "lm_head": base.get_output_embeddings()}
    innermost = {name: _original(module) for name, module in embeddings.items() if module is not None}
    shared = len({id(module.weight) for module in innermost.values()}) < len(innermost)
    # The setting, too: modules that are trained whole are copies, which saving would tie again.
    shared = shared or bool(getattr(base.config.get_text_config(), "tie_word_embeddings", False))
    adapted = [name for name, module in embeddings.items() if module is not innermost.get(name)]
    if shared and adapted:
        raise InputError(
            f"lora: adapters on {' and '.join(adapted)} of a model whose input and output embeddings share their "
            "weights cannot be merged; leave these out of target_modules and modules_to_save"
        )


def _original(module: Any) -> Any:
    """An embedding as it was before adapters were laid around it."""
    for name in ("base_layer", "original_module"):
        module = getattr(module, name, module)
    return module


def prepare_policy(model: Any, peft_config: Any = None) -> Any:
    """Make a loaded model one to train: with its adapters, in float32, without dropout.

    Args:
        model: The model.
        peft_config: Adapters to train instead of the whole model.

    Returns:
        The model, or the model that has it below its adapters.

    Raises:
        InputError: it is quantized, and trained without adapters; or as `check_adapters` and `train_in_float32`.
    """
    if peft_config is not None:
        from peft import get_peft_model, prepare_model_for_kbit_training

        if is_quantized(model):
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
            for module in model.modules():  # on a CPU, weights that bitsandbytes packs for sampling give no gradient
                if hasattr(module, "support_avx512bf16_for_cpu"):
                    module.support_avx512bf16_for_cpu = False
        model = get_peft_model(model, peft_config)
    if is_quantized(model) and not hasattr(model, "peft_config"):
        raise InputError(QUANTIZED_WITHOUT_ADAPTERS)
    check_adapters(model)
    train_in_float32(model)
    disable_dropout(model)
    return model


def train_in_float32(model: Any) -> None:
    """Cast a model that is trained in 16 bits to float32, since small updates vanish in 16 bits; say so.

    Raises:
        InputError: a part of it is trained in 16 bits beside adapters, above weights that stay in 16 bits.
    """
    trained = {p.dtype for p in model.parameters() if p.requires_grad} & {torch.bfloat16, torch.float16}
    if not trained:
        return
    words = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in trained))
    if hasattr(model, "peft_config"):
        raise InputError(
            f"beside the adapters, weights are trained in {words} (modules_to_save), where small updates vanish; load "
            "the model in float32: leave dtype out of model_init_kwargs"
        )
    logger.warning(
        "the weights to train are %s, where small updates vanish: they are cast to float32; bf16=true sets the "
        "precision of the arithmetic",
        words,
    )
    model.float()


def disable_dropout(model: torch.nn.Module) -> None:
    """Set every rate of dropout, and of noise on a router's choice, to 0, and leave a router's own loss out.

    Either would make the importance ratio of an unchanged policy differ from 1.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        # Many models keep a rate as a number (attention_dropout, layerdrop), or read it from their config.
        for holder in (module, getattr(module, "config", None)):
            for name in [name for name, value in _attributes(holder).items() if isinstance(value, float)]:
                if "drop" in name or "jitter" in name:
                    setattr(holder, name, 0.0)
        config: Any = getattr(module, "config", None)
        if getattr(config, "output_router_logits", False):
            config.output_router_logits = False  # the router's loss needs them, and is in no loss of ours


def _attributes(holder: Any) -> dict[str, Any]:
    return vars(holder) if hasattr(holder, "__dict__") else {}


def resolve_model(name: str | Path) -> str:
    """Find a model by its path or hub id; a run directory stands for the model that it trained.

    Returns:
        The path or hub id, as `from_pretrained` takes it.

    Raises:
        InputError: the path does not exist, or the hub cannot be reached and its cache does not hold the model.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "config.json").is_file() and (path / "checkpoints" / "final").is_dir():
            return str(path / "checkpoints" / "final")
        if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
            raise InputError(f"{name}: no model in this directory (no config.json)")
        return str(path)
    # A hub id is one name or owner/name, and never looks like a path.
    if path.is_absolute() or str(name).startswith((".", "~")) or str(name).count("/") > 1 or path.exists():
        raise InputError(f"{name}: no such model directory")
    _check_reachable(str(name))
    return str(name)


def _check_reachable(hub_id: str) -> None:
    """Refuse a model that is not in the cache while the hub refuses connections or has no address.

    The hub's library would try five times again for each of two files: 46 seconds until a mistyped name is refused.
    Loading has its own words and retries for whatever else may fail here, such as the timeout of a slow network.
    """
    try:
        if not any(isinstance(try_to_load_from_cache(hub_id, file), str) for file in CONFIG_FILES):
            get_hf_file_metadata(hf_hub_url(hub_id, CONFIG_FILES[0]))
    except (HTTPError, OSError, ValueError) as error:
        # The class is known by its name: it is httpx2's, and httpx's before huggingface_hub 2.
        if type(error).__name__ == "ConnectError":
            raise InputError(
                f"{hub_id}: no such model directory, and the hub, where it might be, cannot be connected to ({error})"
            ) from None


def model_revision(name: str | Path) -> str:
    """Tell which weights and tokenizer a name stands for now: a hub model's commit, or a hash of a directory's files.

    Raises:
        InputError: there is no such model.
    """
    source = resolve_model(name)
    if not Path(source).is_dir():
        return _commit_of(name, source)
    digest = hashlib.sha256()
    for file in sorted(Path(source).iterdir()):
        if file.suffix in MODEL_FILES:
            with file.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").hexdigest()
            digest.update(f"{file.name} {content}\n".encode())
    return digest.hexdigest()[:16]


def _commit_of(name: str | Path, source: str) -> str:
    """The commit of a hub model: in the hub's cache, the name of the folder of its files."""
    error: Exception | None = None
    for file in CONFIG_FILES:
        try:
            return Path(hf_hub_download(source, file)).parent.name
        except (OSError, ValueError) as missing:
            error = error or missing
    assert error is not None
    raise InputError(_unloadable(name, source, "model", error)) from error


def _unloadable(name: str | Path, source: str, what: str, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return f"{name}: the {what} comes with code; model_init_kwargs={{trust_remote_code: true}} would run it"
    first = next(iter(str(error).strip().splitlines()), "no message")
    where = "no such path, and not on the hub" if not Path(source).exists() else "in this directory"
    return f"{name}: no {what} that could be loaded ({where}): {first}"


def load_tokenizer(
    name: str | Path, *, pad_token: str | None = None, init_kwargs: Mapping[str, Any] | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, and set its `pad_token` if one is given.

    Args:
        name: As for `load_policy`.
        pad_token: For a tokenizer without one.
        init_kwargs: Those of the model, of which `trust_remote_code` is the tokenizer's too.

    Raises:
        InputError: there is no tokenizer, or it lacks a pad or eos token.
    """
    source = resolve_model(name)
    try:
        trust = (init_kwargs or {}).get("trust_remote_code", False)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust)
    except (OSError, ValueError) as error:
        raise InputError(_unloadable(name, source, "tokenizer", error)) from error
    check_tokenizer(tokenizer, pad_token=pad_token)
    return tokenizer


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, *, pad_token: str | None = None) -> None:
    """Set the pad token if one is given, and check that the tokenizer has what training needs.

    Raises:
        InputError: it lacks a pad or eos token or its vocabulary, its chat template fails on a prompt, or `pad_token`
            is not in its vocabulary.
    """
    name = tokenizer.name_or_path or "the tokenizer"
    if not tokenizer("1+1?", add_special_tokens=False)["input_ids"]:
        raise InputError(
            f"{name}: the tokenizer has no vocabulary and encodes text to nothing; its files are missing, copy them "
            "from the model that this one was made from (tokenizer.save_pretrained)"
        )
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise InputError(f"pad_token {pad_token!r} is not in the vocabulary of {name}")
        tokenizer.pad_token = pad_token
    if tokenizer.eos_token_id is None:
        raise InputError(f"{name}: the tokenizer has no eos token, so a completion could never end; set its eos_token")
    if tokenizer.pad_token_id is None:
        raise InputError(
            f"{name}: the tokenizer has no pad token; name an unused token of its vocabulary with the option pad_token "
            "(for Llama 3: pad_token='<|finetune_right_pad_id|>')"
        )
    _check_template(tokenizer, name)


def _check_template(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Raises InputError where the chat template cannot write a prompt; `where` is what the message begins with."""
    template = tokenizer.chat_template
    if isinstance(template, dict) and "default" not in template:
        names = ", ".join(sorted(template))
        raise InputError(
            f"{where}: several chat templates ({names}), and none of them is the default; set tokenizer.chat_template "
            "to the text of one, and save the tokenizer"
        )
    if not template:
        return
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "1+1?"}], add_generation_prompt=True)
    except Exception as error:  # a template is a program: it raises what it likes
        raise InputError(f"{where}: the chat template fails on a prompt: {error}") from error


def shape_chat_template(
    tokenizer: PreTrainedTokenizerBase,
    *,
    template_kwargs: Mapping[str, Any] | None = None,
    system_prompt: str | None = None,
) -> None:
    """Set variables and the system prompt in a tokenizer's chat template; done twice, it is as done once.

    Args:
        tokenizer: Its template is changed in place.
        template_kwargs: Variables of the template, such as `enable_thinking` of Qwen3.
        system_prompt: For conversations that have none of their own.

    Raises:
        InputError: the tokenizer has no chat template, or its template does not read a variable or refuses a system
            prompt.
    """
    if not template_kwargs and system_prompt is None:
        return
    name, named = tokenizer.name_or_path or "the tokenizer", tokenizer.chat_template
    template = named.get("default") if isinstance(named, dict) else named
    if not isinstance(template, str):
        raise InputError(f"chat_template_kwargs, system_prompt: {name} has no chat template to put them into")
    for key in template_kwargs or {}:
        if not key.isidentifier() or key not in template:
            raise InputError(f"chat_template_kwargs: the chat template of {name} reads no variable {key!r}")
    head = "".join(f"{{%- set {key} = {_literal(value)} %}}" for key, value in (template_kwargs or {}).items())
    if system_prompt is not None:
        message = f'{{"role": "system", "content": {_literal(system_prompt)}}}'
        head += (
            f'{{%- if messages[0]["role"] != "system" %}}{{%- set messages = [{message}] + messages %}}{{%- endif %}}'
        )
    if not template.startswith(head):
        tokenizer.chat_template = named | {"default": head + template} if isinstance(named, dict) else head + template
    _check_template(tokenizer, f"system_prompt={system_prompt!r}, chat_template_kwargs={template_kwargs}: {name}")


def _literal(value: Any) -> str:
    """A plain value as Jinja reads it: as JSON, but for `none`."""
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
