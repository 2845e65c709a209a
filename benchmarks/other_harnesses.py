"""Score completions with lighteval and lm-eval, to compare with `tests/evaluation/test_reference.py`.

Both depend on much that they do not need for judging. Install them into a folder of their own, without dependencies; a
stand-in replaces what they only import:

    pip install --no-deps --target /tmp/harnesses lighteval==0.13.0 lm_eval==0.4.13
    PYTHONPATH=/tmp/harnesses python benchmarks/other_harnesses.py ../shared/data

Takes some minutes. Prints the scores per set of completions; aime24 lacks the problem that the test leaves out.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import logging
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

ONLY_IMPORTED = ("nltk", "pytablewriter", "requests", "sacrebleu", "scipy", "sklearn")

MODELS = {
    "aime24": (
        "Llama-3.1-8B (base)", "Qwen2.5-14B-Instruct", "Qwen2.5-Math-7B (base)", "Sky-T1-32B-short ckpt-35",
        "Sky-T1-math-wrong-5K-27B", "gemma-2-27b-it",
    ),
    "amc23": ("Llama-3.1-8B (base)", "Qwen2.5-Math-7B (base)", "Sky-T1-math-wrong-5K-27B"),
    "math500": ("Qwen2.5-14B-Instruct",),
}  # fmt: skip
LEFT_OUT = "aime24-84"


class StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes the packages of `ONLY_IMPORTED` importable; nothing in them works."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        known = name.split(".")[0] in ONLY_IMPORTED
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        module = MagicMock(__path__=[], __spec__=spec)
        module.__name__ = spec.name
        return module

    def exec_module(self, module: Any) -> None:
        pass


def read_completions(data: Path, benchmark: str) -> dict[str, list[dict[str, Any]]]:
    """Read the rows of each problem that all models answered, in the order of the models."""
    rows: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for line in (data / "verifier" / "model_outputs.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["benchmark"] == benchmark and row["model"] in MODELS[benchmark] and row["problem_id"] != LEFT_OUT:
            rows[row["problem_id"]][row["model"]] = row
    models = MODELS[benchmark]
    return {id_: [given[m] for m in models] for id_, given in rows.items() if len(given) == len(models)}


def print_lighteval_scores(data: Path) -> None:
    """Print avg@k and pass@k of lighteval."""
    import lighteval.utils.imports

    # The parser is there in a newer version than the one it asks for.
    lighteval.utils.imports.raise_if_package_not_available = lambda *args, **kwargs: None
    from lighteval.metrics.dynamic_metrics import MultilingualExtractiveMatchMetric
    from lighteval.metrics.metrics_sample import PassAtK
    from lighteval.metrics.utils.extractive_match_utils import ExprExtractionConfig, LatexExtractionConfig
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.requests import Doc
    from lighteval.utils.language import Language

    match = MultilingualExtractiveMatchMetric(
        language=Language.ENGLISH,
        fallback_mode="first_match",
        precision=5,
        gold_extraction_target=(ExprExtractionConfig(), LatexExtractionConfig()),
        pred_extraction_target=(ExprExtractionConfig(), LatexExtractionConfig(boxed_match_priority=0)),
        aggregation_function=max,
    )
    for benchmark, models in MODELS.items():
        verdicts = [
            [
                int(
                    match.compute(
                        doc=Doc(query="", choices=[f"${row['gold']}$"], gold_index=0),
                        model_response=ModelResponse(text=[row["prediction"]]),
                    )
                )
                for row in rows
            ]
            for rows in read_completions(data, benchmark).values()
        ]
        k = len(models)
        scores = {f"avg@{k}": sum(map(sum, verdicts)) / (k * len(verdicts))}
        for j in range(1, k + 1):
            estimator = PassAtK(k=j, n=k, sample_scoring_function=lambda **kwargs: 0)
            scores[f"pass@{j}"] = sum(map(estimator.pass_at_k, verdicts)) / len(verdicts)
        print("lighteval", benchmark, len(verdicts), {name: round(float(value), 6) for name, value in scores.items()})


def print_lm_eval_scores(data: Path) -> None:
    """Print avg@1 of lm-eval's minerva_math task."""
    installed = importlib.metadata.version
    # It insists on a version of a parser that its math_verify score does not use.
    importlib.metadata.version = lambda name: "4.11" if name == "antlr4-python3-runtime" else installed(name)
    import lm_eval

    file = Path(lm_eval.__path__[0]) / "tasks" / "minerva_math" / "utils.py"
    spec = importlib.util.spec_from_file_location("minerva_math", file)
    assert spec is not None
    assert spec.loader is not None
    task = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(task)
    verdicts = []
    for (row,) in read_completions(data, "math500").values():
        document = {"solution": f"${row['gold']}$", "answer": row["gold"]}
        verdicts.append(task.process_results(document, [row["prediction"][-4000:]])["math_verify"])
    print("lm-eval math500", len(verdicts), {"avg@1": sum(verdicts) / len(verdicts)})


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    sys.meta_path.append(StandIn())
    print_lm_eval_scores(Path(sys.argv[1]))
    print_lighteval_scores(Path(sys.argv[1]))
