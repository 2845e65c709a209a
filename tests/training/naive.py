"""The loss of a step from the equations of the paper, in float64: one row at a time, full logits, no packing."""

from __future__ import annotations

import copy
import math
import statistics
from dataclasses import dataclass, field

import torch


@dataclass
class Group:
    """What was sampled for a problem: prompts and completions as token ids, rewards as numbers."""

    problem: object
    prompt: list[int]
    guided_prompt: list[int] | None
    autonomous: list[list[int]] = field(default_factory=list)
    guided: list[list[int]] = field(default_factory=list)
    autonomous_rewards: list[float] = field(default_factory=list)
    guided_rewards: list[float] = field(default_factory=list)


def read_groups(call, tokenizer, problems, verifier):
    """The groups of one generation call, in the order of the batch; prompts are written out here again."""
    prompts, _, _, completions = call
    plain = {tuple(tokenizer(f" {problem.problem}")["input_ids"]): problem for problem in problems}
    guided = {
        tuple(tokenizer(f" sum : do {problem.id} ; ! | {problem.problem}")["input_ids"]): problem
        for problem in problems
    }
    groups: dict[str, Group] = {}
    for prompt, completion in zip(map(tuple, prompts), completions, strict=True):
        problem = plain.get(prompt) or guided[prompt]
        group = groups.setdefault(problem.id, Group(problem, [], None))
        text = tokenizer.decode(completion.token_ids, skip_special_tokens=True)
        verdict = verifier(text, problem)
        reward = float(verdict) if isinstance(verdict, float | int) else float(verdict.kind == "correct")
        if getattr(verdict, "kind", None) == "timeout":
            reward = math.nan
        if prompt in plain:
            group.prompt = list(prompt)
            group.autonomous.append(completion.token_ids)
            group.autonomous_rewards.append(reward)
        else:
            group.guided_prompt = list(prompt)
            group.guided.append(completion.token_ids)
            group.guided_rewards.append(reward)
    return list(groups.values())


def double(model, weights=None):
    """The model in float64, with other weights if given."""
    model = copy.deepcopy(model).double()
    if weights is not None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
    return model


def distributions(model, prompt, completion, temperature):
    """log pi(. | prompt, completion before t) for each token t of the completion: T x V."""
    logits = model(input_ids=torch.tensor([prompt + completion])).logits[0]
    rows = [logits[len(prompt) + t - 1] / temperature for t in range(len(completion))]
    return torch.stack([row - torch.logsumexp(row, -1) for row in rows])


def logprobs(model, prompt, completion, temperature=1.0):
    """The log-probability of each token of the completion."""
    all_TV = distributions(model, prompt, completion, temperature)
    return torch.stack([all_TV[t, token] for t, token in enumerate(completion)])


def advantages(rewards):
    known = [reward for reward in rewards if not math.isnan(reward)]
    if len(known) < 2 or len(set(known)) == 1:
        return [0.0] * len(rewards)
    mean, std = statistics.mean(known), statistics.stdev(known)
    return [0.0 if math.isnan(reward) else (reward - mean) / (std + 1e-4) for reward in rewards]


def policy_loss(model, groups, *, old=None, temperature=1.0, low=0.2, high=0.28, counts=lambda completion: True):
    """`-min(rho A, clip(rho) A)`, the mean over all tokens of all autonomous completions that count.

    `old` is the model that sampled (None: this one). Also returns the share of tokens outside the clip range.
    """
    total, tokens, outside = torch.zeros((), dtype=torch.float64), 0, 0
    seen = 0
    for group in groups:
        for completion, advantage in zip(group.autonomous, advantages(group.autonomous_rewards), strict=True):
            if not counts(completion):
                continue
            new = logprobs(model, group.prompt, completion, temperature)
            with torch.no_grad():
                before = logprobs(old, group.prompt, completion, temperature) if old is not None else new.detach()
            for t in range(len(completion)):
                ratio = torch.exp(new[t] - before[t])
                clipped = torch.clamp(ratio, 1 - low, 1 + high)
                total = total - torch.minimum(ratio * advantage, clipped * advantage)
                tokens += 1
                if advantage != 0:
                    seen += 1
                    outside += int(not 1 - low <= ratio.item() <= 1 + high)
    return total / tokens, outside / max(seen, 1)


def pass_rate(rewards):
    known = [reward > 0.5 for reward in rewards if not math.isnan(reward)]
    return sum(known) / len(known) if known else math.nan


def alpha(group, base=0.5, smoothing=0.1, maximum=0.8):
    p_g, p_a = pass_rate(group.guided_rewards), pass_rate(group.autonomous_rewards)
    return min(max(base * (p_g - p_a) / (p_a + smoothing), 0.0), maximum)


def target_of(model, group, *, limit, ends, temperature=1.0):
    """The correct, finished guided completion that the unguided policy finds likeliest per token; None without one."""
    scored = []
    for completion, reward in zip(group.guided, group.guided_rewards, strict=True):
        if not reward > 0.5 or (len(completion) == limit and completion[-1] not in ends):
            continue
        with torch.no_grad():
            score = logprobs(model, group.prompt, completion, temperature).mean().item()
        scored.append((score, completion))
    scored.sort(key=lambda pair: -pair[0])
    return scored[0][1] if scored else None


def distill_loss(
    model,
    groups,
    *,
    limit,
    ends,
    kind="forward_kl",
    cap=1.0,
    mode="scale",
    temperature=1.0,
    weigh=alpha,
    choose=None,
    sft=0.0,
):
    """`(1/P) sum_q alpha(q) (1/T_q) sum_t clip(KL_t)`; also the divergences before the clip, by problem id.

    `choose` is the model that selects the targets (None: this one); `sft` is what is added of the target's
    cross-entropy.
    """
    total, divergences = torch.zeros((), dtype=torch.float64), {}
    for group in groups:
        weight = weigh(group)
        target = target_of(model if choose is None else choose, group, limit=limit, ends=ends, temperature=temperature)
        if target is None or not weight > 0:
            continue
        unguided = distributions(model, group.prompt, target, temperature)
        with torch.no_grad():
            guided = distributions(model, group.guided_prompt, target, temperature)
        pulls, kls = [], divergences.setdefault(group.problem.id, [])
        for t in range(len(target)):
            u, p = unguided[t], guided[t]
            first, second = (u, p) if kind == "reverse_kl" else (p, u)
            kl = (torch.exp(first) * (first - second)).sum()
            kls.append(kl.item())
            pull = -u[target[t]] if kind == "sft" else kl
            if kind != "sft" and cap is not None and pull.item() > cap:
                pull = pull * (cap / pull.item()) if mode == "scale" else torch.tensor(cap, dtype=torch.float64)
            pulls.append(pull)
        part = sum(pulls) / len(pulls)
        part = part - sft * sum(unguided[t][target[t]] for t in range(len(target))) / len(target)
        total = total + weight * part / len(groups)
    return total, divergences


def gradients(model, loss):
    """The gradient by parameter name; zeros where the loss does not reach."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    values = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if value is None else value
        for name, parameter, value in zip(names, parameters, values, strict=True)
    }
