"""The loss of a model that FSDP2 shards over two processes, and of a whole one, on the same training rows."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.distributed.fsdp import fully_shard

from sgpo import SGPOConfig
from sgpo.algorithms import Target, TrainingRow
from sgpo.rollouts.forward import Predictor
from sgpo.rollouts.groups import PromptIds
from sgpo.training.loss import Totals, batch_loss
from sgpo.training.metrics import Averages
from tests.training.building import policy

# Problems 0 and 1 are process 0's, 2 and 3 process 1's; problem 0 alone has a target.
ROWS = [
    TrainingRow(problem_index=p, prompt=PromptIds("", [50 + p] * (p + 1)), completion_ids=ids, advantage=advantage)
    for p, ids, advantage in [
        (0, [70, 71, 1], 1.0),
        (0, [72], -1.0),
        (1, [73, 74], 0.5),
        (2, [75, 76, 77, 78], -0.7),
        (3, [79, 1], 0.7),
    ]
] + [
    TrainingRow(
        problem_index=0,
        prompt=PromptIds("", [50]),
        completion_ids=[80, 81, 1],
        target=Target(
            guided_prompt=PromptIds("", [90, 91, 50]),
            strategy_id="s",
            weight=0.8,
            guided_pass_rate=1.0,
            autonomous_pass_rate=0.0,
        ),
    )
]
TOTALS = Totals.of(ROWS, problems=4)


def gradients(model, rows, options) -> dict[str, torch.Tensor]:
    """The gradients of the global loss; `rows` are this process's part."""
    model.train()
    predictor = Predictor(model, pad_id=0)
    # As the trainer does: what averages over processes gets a sum.
    loss = batch_loss(model, predictor, rows, TOTALS, options, Averages()) * options.world_size
    loss.backward()
    return {
        name: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for name, p in model.named_parameters()
    }


def save_gradients(home: Path, *, process: int) -> None:
    """Called in both processes; the first writes `sharded.pt`."""
    model = policy()
    for layer in model.model.layers:
        fully_shard(layer, mesh=torch.distributed.init_device_mesh("cpu", (2,)))
    fully_shard(model, mesh=torch.distributed.init_device_mesh("cpu", (2,)))
    rows = [row for row in ROWS if row.problem_index // 2 == process]
    found = gradients(model, rows, SGPOConfig(output_dir=str(home), use_cpu=True))
    if process == 0:
        torch.save(found, home / "sharded.pt")
