"""The model card of a trained model, and its upload to the hub.

The card says what a reader of the model alone needs to know, from its run's own files. Names and answers come from
users' files and models: everything is escaped, for Markdown and for the HTML within it.
"""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from sgpo.errors import InputError
from sgpo.evaluation.summary import (
    SINCE_THE_FIRST,
    Difference,
    change,
    pass_rates,
    say_failed_training,
    say_standings,
)
from sgpo.io import counted, read_json
from sgpo.training.config import SGPOConfig
from sgpo.training.run_directory import RunDirectory

PAPER = "https://arxiv.org/abs/2606.24064"
CITATION = """@misc{sgpo,
  title = {Beyond Trajectory Imitation: Strategy-Guided Policy Optimization for LLM Reasoning},
  year = {2026},
  eprint = {2606.24064},
  archivePrefix = {arXiv},
  url = {https://arxiv.org/abs/2606.24064}
}"""

logger = logging.getLogger("sgpo")

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def write_model_card(run: RunDirectory) -> Path:
    """Write the card of a run's final model, `checkpoints/final/README.md`, over any that is there."""
    path = run.final_model / "README.md"
    path.write_text(model_card(run), encoding="utf-8", errors="replace")
    return path


def model_card(run: RunDirectory) -> str:
    """Write the card as Markdown: recipe, data, metrics, commit, and how to cite."""
    config = run.read_config()
    warmup = run.path / "warmup.json"
    base = str(read_json(warmup)["model"] if warmup.exists() else config["model"])
    evaluations, metrics = _read_evaluations(run), run.read_metrics()
    parts = [
        _front_matter(base),
        f"# {_text(run.path.resolve().name)}",
        f"{_code(base)}, trained by the algorithm `{_text(config['algorithm'])}` of `sgpo`, an implementation of "
        f"[Strategy-Guided Policy Optimization]({PAPER}).",
        _result(evaluations, metrics),
        "## Metrics",
        _evaluations(evaluations) or "The run made no evaluation.",
        _training(metrics),
        "## Data",
        _data(config),
        "## Recipe",
        _recipe(run, config),
        "## Made with",
        _table(("what", "which"), _provenance(config)),
        "## Citation",
        _fenced(CITATION, "bibtex"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(base: str) -> str:
    fields: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["sgpo"]}
    if _HUB_ID.fullmatch(base) and not Path(base).exists():
        fields["base_model"] = base
    return f"---\n{yaml.safe_dump(fields, sort_keys=False)}---"


def _read_evaluations(run: RunDirectory) -> dict[str, list[dict[str, Any]]]:
    """The contents of `eval/*.json` by problem set, in the order of steps."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(run.path.glob("eval/*-step-*.json")):
        try:
            scores = read_json(file)
            if not scores.keys() >= {"name", "step", "problems", "k"}:
                raise InputError(f"{file}: no evaluation of a run")
        except (InputError, AttributeError) as error:
            logger.warning("left out of the model card: %s", error)  # the model is trained: this must not end the run
            continue
        by_name.setdefault(str(scores["name"]), []).append(scores)
    return dict(sorted(by_name.items()))


def _result(evaluations: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Sequence[Mapping[str, Any]]) -> str:
    """Why training failed, and what it won and lost between the first and the last evaluation of each set."""
    results: dict[str, tuple[Difference, str]] = {}
    for name, (first, *others) in evaluations.items():
        before, after = (pass_rates(scores.get("samples")) for scores in (first, others[-1] if others else first))
        if others and (difference := change(before, after)) is not None:
            value = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
            results[name] = (difference, f"avg@{first['k']} {value}")
    failure = say_failed_training(metrics)
    sentences = [f"Of the completions that training sampled, {failure}."] if failure else []
    if results:
        sentences.append(f"From the first to the last evaluation: {say_standings(results, SINCE_THE_FIRST)}.")
    return _text(" ".join(sentences))


def _evaluations(evaluations: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A table of the last evaluation of each set, and the first where there are two."""
    rows = []
    for name, found in evaluations.items():
        for scores in [found[0], found[-1]] if len(found) > 1 else found:
            k = scores["k"]
            measures = [_interval(scores.get(f"{measure}@{n}")) for measure, n in (("avg", k), ("pass", k), ("maj", k))]
            rows.append((name, scores["step"], scores["problems"], k, *measures))
    if not rows:
        return ""
    header = ("problems", "after step", "number", "k", "avg@k", "pass@k", "maj@k")
    return "Autonomous prompts; means over problems with 95 % intervals.\n\n" + _table(header, rows)


def _interval(score: Any) -> str:
    if not isinstance(score, Mapping):
        return ""
    return f"{score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def _training(metrics: Sequence[Mapping[str, Any]]) -> str:
    trained = [row for row in metrics if "loss" in row]
    if not trained:
        return ""
    last = trained[-1]
    keys = ("pass_rate/autonomous", "pass_rate/guided", "entropy", "completion_length/autonomous")
    values = [(key, f"{last[key]:.3f}") for key in keys if key in last]
    completions = counted(last["completions"], "sampled completion")
    return f"Trained for {counted(last['step'], 'step')} on {completions}. The last step:\n\n" + _table(
        ("metric", "value"), values
    )


def _data(config: Mapping[str, Any]) -> str:
    problems, strategies = config["problems"], config["strategies"]
    rows = [
        ("problems", problems["problems"]),
        ("left out, prompt too long", problems["too_long"]),
        ("strategies", strategies["path"] or "none"),
        ("problems without a strategy", strategies["without_strategy"]),
        ("prompt style", f"{config['prompts']['style']} {config['prompts']['version']}"),
    ]
    return _table(("what", "which"), rows)


def _recipe(run: RunDirectory, config: Mapping[str, Any]) -> str:
    if run.recipe_file.exists():
        return _fenced(run.recipe_file.read_text(encoding="utf-8").rstrip(), "yaml")
    options = {name: config["args"][name] for name in SGPOConfig.__annotations__ if name in config["args"]}
    return _fenced(yaml.safe_dump(options, sort_keys=False).rstrip(), "yaml")


def _provenance(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    names = ("git_commit", "command", "started")
    return [(name.replace("_", " "), config[name]) for name in names if config.get(name)] + [
        (name, version) for name, version in config.get("versions", {}).items()
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: Any) -> str:
    """One line of plain text in Markdown: neither markup nor HTML nor the end of a table's cell."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", text)


def _code(value: str) -> str:
    return f"<code>{_text(value)}</code>"


def _fenced(text: str, language: str) -> str:
    """A block of code, whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def upload_model(folder: Path, repository: str | None, **options: Any) -> Any:
    """Upload a trained model and its card.

    Args:
        folder: The model.
        repository: The repository's id.
        options: More of `HfApi.upload_folder`'s.

    Raises:
        OSError: the hub refuses or cannot be reached; the message says how to upload by hand.
    """
    with hub_errors(f"{folder}: trained and saved, but not uploaded", fix=f"hf upload {repository} {folder}"):
        api: Any = HfApi()  # its overloads want `run_as_future` as a literal
        return api.upload_folder(repo_id=repository, folder_path=folder, **options)


@contextmanager
def hub_errors(what: str, *, fix: str) -> Iterator[None]:
    """Turn an error of the hub or the network into an OSError of one line: what happened, why, and the fix."""
    try:
        yield
    except (OSError, HTTPError) as error:
        raise OSError(f"{what} ({error}); {fix}") from error
