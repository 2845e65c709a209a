"""The vllm engines against stand-ins that keep what they were asked, and vLLM itself in test_vllm_real.py."""

from __future__ import annotations

import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo.rollouts import vllm as adapter
from sgpo.rollouts.engine import Sampling, build_engine
from sgpo.rollouts.hf import HFEngine
from sgpo.rollouts.vllm import OfflineVLLM, VLLMEngine, VLLMOptions, build_vllm_engine, load_offline_vllm
from tests.conftest import tiny_qwen2

EOS = 1


def accelerator_of(processes=1, counts=()):
    """An Accelerator of one process whose `gather` brings the counts of the others too."""
    return SimpleNamespace(
        num_processes=processes,
        device=torch.device("cpu"),
        is_main_process=True,
        gather=lambda mine: torch.cat([mine, torch.tensor(counts, dtype=mine.dtype)]),
    )


class FakeGeneration:
    """TRL's VLLMGeneration as the adapter sees it: answers prompt `p` with the tokens `p[0], EOS`."""

    def __init__(self, model, accelerator, processing_class, **options):
        self.model, self.accelerator, self.options = model, accelerator, options
        self.mode, self.tensor_parallel_size = options.get("mode", "colocate"), options.get("tensor_parallel_size", 1)
        self.temperature = self.top_p = self.top_k = 77  # whatever the last call, or a default, left behind
        self.calls, self.synced = [], []
        self.vllm_client = SimpleNamespace(
            get_server_info=lambda: {"model_config": {"logprobs_mode": options["server_base_url"].rpartition("/")[2]}}
        )

    def sync_weights(self):
        self.synced.append(self.model)

    def generate(self, prompts, images, num_generations, profiler=None):
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_completion_length", "logprobs")
        asked = {name: getattr(self, name) for name in names} | self.generation_kwargs
        self.calls.append((prompts, images, num_generations, asked))
        tokens = [[prompt[0], EOS] if prompt[0] < 100 else [prompt[0]] for prompt in prompts]
        logprobs = [[[-0.5], [None]][: len(ids)] for ids in tokens]
        return prompts, tokens, logprobs, [[[token] for token in ids] for ids in tokens]


def engine_of(accelerator=None, **options):
    generation = FakeGeneration("model", accelerator or accelerator_of(), None, **options)
    return VLLMEngine(generation, pad_id=0, eos_ids=[EOS, 9]), generation


def test_one_call_samples_everything_with_every_option_set():
    engine, generation = engine_of()
    completions = engine.generate([[5, 6], [5, 6], [123]], Sampling(max_tokens=7, temperature=0.5), seeds=[1, 2, 3])
    ((prompts, images, num_generations, asked),) = generation.calls
    assert (prompts, images, num_generations) == ([[5, 6], [5, 6], [123]], None, 1)
    assert asked == {
        "temperature": 0.5, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
        "max_completion_length": 7, "logprobs": 0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        "min_tokens": 0, "ignore_eos": False, "stop_token_ids": [EOS, 9],
    }  # fmt: skip
    assert [c.token_ids for c in completions] == [[5, EOS], [5, EOS], [123]]
    assert [c.finished for c in completions] == [True, True, False]
    assert completions[2].logprobs == [-0.5]
    assert completions[0].logprobs[0] == -0.5
    assert math.isnan(completions[0].logprobs[1])  # vLLM gave none


@pytest.mark.parametrize("sampling", [{"top_p": 0.9}, {"temperature": 0.0}])
def test_log_probabilities_of_another_distribution_are_not_passed_on(sampling):
    engine, _ = engine_of()
    (completion,) = engine.generate([[5]], Sampling(max_tokens=7, **sampling), seeds=[1])
    assert completion.logprobs == []


def test_weights_are_those_of_the_model_that_is_handed_over():
    engine, generation = engine_of()
    model = torch.nn.Linear(1, 1)
    engine.sync_weights(model)
    assert generation.synced == [model]


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({"mode": "server"}, 5),
        ({"mode": "colocate", "tensor_parallel_size": 2}, 5),
        ({"mode": "colocate", "tensor_parallel_size": 1}, 2),
    ],
)
def test_processes_that_share_vllm_send_equally_many_prompts(options, sent):
    """Another process has five prompts, this one two."""
    engine, generation = engine_of(accelerator_of(processes=2, counts=[5]), **options)
    completions = engine.generate([[5], [6]], Sampling(max_tokens=7), seeds=[1, 2])
    assert generation.calls[0][0] == [[5], [6]] + [[0]] * (sent - 2)
    assert [c.token_ids for c in completions] == [[5, EOS], [6, EOS]]


def test_nothing_to_sample_is_no_call():
    engine, generation = engine_of()
    assert engine.generate([], Sampling(max_tokens=7), seeds=[]) == []
    assert generation.calls == []


@pytest.fixture
def fake_vllm(monkeypatch):
    """Makes `import vllm` work, and TRL's VLLMGeneration the stand-in."""
    monkeypatch.setattr("trl.generation.vllm_generation.VLLMGeneration", FakeGeneration)
    module = ModuleType("vllm")
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(adapter, "find_spec", lambda name: name)
    return module


def test_the_factory_knows_both_engines(fake_vllm, tokenizer):
    options = VLLMOptions(tensor_parallel_size=2, gpu_memory_utilization=0.5, max_model_length=64)
    model = tiny_qwen2()
    model.name_or_path = "some/model"
    common = {"batch_size": 8, "accelerator": accelerator_of(), "vllm": options}
    assert isinstance(build_engine("hf", model, tokenizer, **common), HFEngine)
    engine = build_engine("vllm", model, tokenizer, **common)
    assert engine.eos_ids == [EOS]
    assert engine.generation.options == {
        "mode": "colocate", "server_base_url": None, "gpu_memory_utilization": 0.5, "tensor_parallel_size": 2,
        "enable_sleep_mode": False, "max_model_length": 64, "max_num_seqs": 8,
    }  # fmt: skip


def test_a_server_must_give_the_log_probabilities_that_it_samples_by(fake_vllm, tokenizer):
    def build(mode):
        options = VLLMOptions(mode="server", server_base_url=f"http://host:8000/{mode}")
        return build_vllm_engine(None, tokenizer, accelerator_of(), options, eos_ids=[EOS], max_sequences=8)

    assert build("processed_logprobs").generation.mode == "server"
    with pytest.raises(ValueError, match=r"gives raw_logprobs.*restart it with --logprobs-mode processed_logprobs"):
        build("raw_logprobs")


def test_a_model_that_vllm_cannot_find_is_refused(fake_vllm, tokenizer):
    with pytest.raises(ValueError, match="loads a model by its path or hub id, and this one has none"):
        build_vllm_engine(tiny_qwen2(), tokenizer, accelerator_of(), VLLMOptions(), eos_ids=[1], max_sequences=8)


def test_without_vllm_the_mend_is_named(tokenizer):
    if adapter.find_spec("vllm") is not None:
        pytest.skip("vLLM is installed here")
    for build in (
        lambda: build_vllm_engine(None, tokenizer, accelerator_of(), VLLMOptions(), eos_ids=[1], max_sequences=8),
        lambda: load_offline_vllm("some/model", tokenizer),
    ):
        with pytest.raises(ValueError, match=r"the vllm engine needs vLLM.*pip install -e '.\[vllm\]'"):
            build()


def test_a_saved_model_is_sampled_with_a_seed_for_each_completion(fake_vllm):
    asked = []

    class LLM:
        def __init__(self, model, **options):
            asked.append((model, options))
            self.model_config = SimpleNamespace(max_model_len=512)

        def generate(self, prompts, params, use_tqdm):
            asked.append((prompts, params))
            entry = {5: SimpleNamespace(logprob=-0.25), EOS: SimpleNamespace(logprob=-2.0)}
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=(5, EOS), logprobs=[entry, entry])])] * 2

    fake_vllm.LLM, fake_vllm.SamplingParams = LLM, SimpleNamespace
    engine = OfflineVLLM("some/model", eos_ids=[EOS], max_model_len=64)
    completions = engine.generate([[7], [7]], Sampling(max_tokens=3, temperature=0.6), seeds=[11, 12])
    assert asked[0] == ("some/model", {"logprobs_mode": "processed_logprobs", "max_model_len": 64})
    assert engine.context == 512
    prompts, params = asked[1]
    assert prompts == [{"prompt_token_ids": [7]}] * 2
    assert [each.seed for each in params] == [11, 12]
    assert vars(params[0]) | {"seed": None} == {
        "temperature": 0.6, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "max_tokens": 3,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_tokens": 0, "ignore_eos": False,
        "stop_token_ids": [EOS], "logprobs": 0, "seed": None,
    }  # fmt: skip
    assert [(c.token_ids, c.finished, c.logprobs) for c in completions] == [([5, EOS], True, [-0.25, -2.0])] * 2


def test_an_adapter_is_merged_for_vllm(fake_vllm, tokenizer, tmp_path):
    """vLLM gets a directory with a whole model, whose weights are those of base and adapter together."""
    from peft import LoraConfig, get_peft_model

    tiny_qwen2(eos_token_id=[1, 150]).save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    torch.manual_seed(0)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = []

    def llm(model, **options):
        loaded.append(AutoModelForCausalLM.from_pretrained(model))
        assert AutoTokenizer.from_pretrained(model).eos_token_id == EOS
        return SimpleNamespace()

    fake_vllm.LLM = llm
    engine = load_offline_vllm(str(tmp_path / "adapter"), tokenizer)
    assert engine.eos_ids == [1, 150]
    weights = loaded[0].state_dict()
    assert weights.keys() == tiny_qwen2().state_dict().keys()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert (weights[name] - tiny_qwen2().state_dict()[name]).abs().max() > 1e-2
    ids = torch.arange(5, 25).unsqueeze(0)
    with torch.no_grad():
        assert torch.allclose(loaded[0].eval()(ids).logits, adapted.eval()(ids).logits, atol=1e-4)
