from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_runs import make_run, write_lines

from sgpo.report import write_report

HOSTILE = (
    "</script ><!--<script </script><script>pwned()</script><img src=x onerror=pwned()> "
    "\" ' & \x00\x1b\u202etxt.exe\ud800 {{ 7*7 }}"
)
VOID = {"meta", "input", "img", "br", "hr", "link"}


class Page(HTMLParser):
    """The elements of a page, its text by element, and whatever is not closed in the order it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.errors: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.errors.append(f"{tag} at {self.getpos()}")
        if tag in ("td", "th"):
            self.text += " "

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.text += data

    def having(self, attribute: str) -> list[str]:
        return [
            value or "" for _, attributes in self.elements for name, value in attributes.items() if name == attribute
        ]


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def words(page: Page) -> str:
    return " ".join(page.text.split())


def copied(run: Path, to: Path) -> Path:
    shutil.copytree(run, to)
    return to


def test_the_page_is_well_formed(report: Path) -> None:
    page = read(report)
    assert page.errors == []
    assert page.open == []
    ids = page.having("id")
    assert len(ids) == len(set(ids))


def test_every_link_leads_into_the_page_and_every_section_is_in_the_contents(report: Path) -> None:
    page = read(report)
    targets = {href for href in page.having("href") if href.startswith("#")}
    assert targets == set(page.having("href"))
    assert {target[1:] for target in targets} <= set(page.having("id"))
    assert {f"#{section}" for section in page.having("aria-labelledby")} <= targets


def test_nothing_comes_from_outside(report: Path) -> None:
    page = read(report)
    text = report.read_text(encoding="utf-8")
    assert page.having("src") == []
    assert "link" not in {tag for tag, _ in page.elements}
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    (policy,) = (value for value in page.having("content") if "default-src" in value)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")


def test_the_comparison_leads_with_its_interval(report: Path) -> None:
    text = words(read(report))
    lede = re.search(r"sgpo against grpo: ahead on fresh \(\+(\S+) \[\+(\S+), \+(\S+)\]\)\. Points of avg@4, ", text)
    assert lede
    mean, low, high = map(float, lede.groups())
    assert low < mean < high
    assert "averaged over the learning curve up to 5,760 completions; for equal completions it took " in text


def test_every_curve_has_its_values_for_the_pointer(report: Path) -> None:
    plots = [json.loads(values) for values in read(report).having("data-values")]
    assert len(plots) > 15
    learning = next(plot for plot in plots if plot["axis"] == "completions sampled")
    assert [(curve["label"], len(curve["points"])) for curve in learning["curves"]] == [("grpo", 7), ("sgpo", 7)]
    labels = {curve["label"] for plot in plots for curve in plot["curves"]}
    assert {"grpo, autonomous", "sgpo, autonomous", "sgpo, guided"} <= labels


def test_what_equals_the_mean_has_no_column(report: Path) -> None:
    headers = re.findall(r">([a-z]+@\d)</th>", report.read_text(encoding="utf-8"))
    assert {"avg@4", "pass@4", "maj@4"} <= set(headers)
    assert "pass@1" not in headers


def test_a_tie_is_called_a_tie(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, seed=seed, steps=20, gain=0.3) for seed, name in enumerate(("one", "other"))]
    text = words(read(write_report(runs, tmp_path / "report.html")))
    assert "other against one: level on fresh (" in text
    assert "the interval includes zero: a tie" in text
    assert "ahead" not in text


def test_every_problem_set_is_compared_and_the_fuller_one_leads(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / name, seed=seed, steps=20, gain=gain, evaluations=("a-retention", "fresh"))
        for seed, (name, gain) in enumerate((("one", 0.1), ("other", 0.9)))
    ]
    (runs[0] / "eval" / "a-retention-step-000010.json").unlink()
    text = words(read(write_report(runs, tmp_path / "report.html")))
    assert "other against one: ahead on fresh (" in text
    assert "Compared on a-retention" in text
    assert "Compared on fresh" not in text  # it leads: its heading is the overview's
    assert text.count("other minus one") == 2  # a row for each set


def test_what_was_run_and_how_to_do_it_again(report: Path) -> None:
    text = words(read(report))
    assert "sgpo train recipes/quickstart.yaml --set algorithm=sgpo --out sgpo" in text
    assert "git checkout 0123abcd4567ef890123abcd4567ef890123abcd" in text
    assert "torch 2.13.0" in text
    assert "num_autonomous" in text
    assert "3 options differ between the runs" in text
    assert "2 options are the same" in text


def test_one_command_that_made_several_runs_stands_once(runs: list[Path], tmp_path: Path) -> None:
    copies = [copied(run, tmp_path / run.name) for run in runs]
    for run in copies:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        (run / "config.json").write_text(json.dumps(config | {"command": "sgpo quickstart --seed 3"}))
    text = words(read(write_report(copies, tmp_path / "report.html")))
    assert text.count("sgpo quickstart --seed 3") == 1


def test_alarms_stand_above_everything_each_kind_once(runs: list[Path], tmp_path: Path) -> None:
    copies = [copied(run, tmp_path / run.name) for run in runs]
    rows = [
        {"step": step, "alarm": "entropy", "message": f"Entropy fell <at {step}>.", "value": 0.012, "threshold": 0.1}
        for step in range(7, 19)
    ]
    write_lines(copies[1] / "alarms.jsonl", [*rows, {"step": 9, "alarm": "all_fail"}])
    text = words(read(write_report(copies, tmp_path / "report.html")))
    before, overview = text.split("Last scores on fresh")
    assert (
        "2 alarms sgpo entropy at step 7 (value 0.012, threshold 0.1). Entropy fell <at 7>. Raised 12 times" in before
    )
    assert "last at step 18" in before
    assert "Alarms none entropy ×12, all_fail ×1" in overview


def test_a_run_that_broke_off_is_told_with_where_it_stands(runs: list[Path], tmp_path: Path) -> None:
    run = copied(runs[1], tmp_path / "sgpo")
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[:20]) + '\n{"step": 1')
    text = words(read(write_report([runs[0], run], tmp_path / "report.html")))
    assert "Not ended: sgpo (step 19 of 60)." in text
    assert "Steps 60 19 of 60, not ended" in text


def test_single_evaluations_have_no_curve(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, steps=1, seed=seed) for seed, name in enumerate(("one", "other"))]
    text = words(read(write_report(runs, tmp_path / "report.html")))
    assert "other minus one" in text
    for curve in ("Learning curves", "Over the curve ", "avg@4 before"):
        assert curve not in text


def test_an_evaluation_shows_its_parts_and_what_is_missing(tmp_path: Path) -> None:
    """Two evaluations of a served model, one of which lost a problem: as `sgpo eval --out` writes them."""

    def evaluated(name: str, samples: dict[str, list[str]], **fields: object) -> Path:
        (tmp_path / name / "eval").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text('{"algorithm": ""}')
        score = {"mean": 0.5, "low": 0.25, "high": 0.75}
        row = {"name": "math", "step": 0, "completions": 0, "problems": len(samples), "k": 1, "avg@1": score}
        row |= {"verdicts": {}, "samples": samples, **fields}
        (tmp_path / name / "eval" / "math-step-000000.json").write_text(json.dumps(row))
        return tmp_path / name

    subjects = {
        name: {"problems": 1, "avg": {"mean": mean, "low": 0, "high": 1}}
        for name, mean in (("<b>", 1.0), ("sums", 0.0))
    }
    whole = evaluated(
        "whole", {"p": ["correct"], "q": ["wrong"]}, subjects=subjects, levels={"5": subjects["sums"]},
        length={"unit": "tokens", "mean": 812.4, "median": 1, "max": 2}, truncated=0.125, missing=0,
    )  # fmt: skip
    part = evaluated("part", {"p": ["wrong"]}, missing=1)
    page = read(write_report([whole, part], tmp_path / "report.html"))
    text = words(page)
    assert "1 of 2 problems, those that every run has answered" in text
    assert "part incomplete: 1 problem missing" in text
    assert "whole 50.0 [25.0, 75.0] 812 tokens 12.5 %" in text
    assert "avg@1 by subject Subject whole part <b> 100.0 [0.0, 100.0] – sums 0.0" in text
    assert "by level" not in text
    assert page.errors == []


def test_many_runs_of_all_kinds_make_one_page(runs: list[Path], tmp_path: Path) -> None:
    short = make_run(tmp_path / "short", seed=3, steps=30, evaluations=("fresh", "retention"))
    unevaluated = make_run(tmp_path / "unevaluated", seed=4, steps=10, evaluations=())
    page = read(write_report([unevaluated, *runs, short, warmup_alone(tmp_path / "warm")], tmp_path / "report.html"))
    text = words(page)
    assert page.errors == []
    assert "sgpo against grpo: " in text  # the first that was evaluated is the baseline
    assert "short against grpo: " in text
    assert "curves up to 2,880 completions" in text  # what the shortest reached
    assert "unevaluated minus" not in text
    assert "against unevaluated" not in text
    assert "Last scores on retention" in text
    assert "the runs are not compared" not in text


def warmup_alone(path: Path) -> Path:
    """What `sgpo train --stage warmup` leaves."""
    path.mkdir()
    document = {"model": "some/model", "sft": {"learning_rate": 1e-5}, "problems": 90, "without_solution": 3}
    (path / "warmup.json").write_text(json.dumps(document | {"command": "sgpo train recipe.yaml --stage warmup"}))
    steps = [{"step": step, "loss": 3 / step, "mean_token_accuracy": 0.5} for step in range(10, 60, 10)]
    write_lines(path / "warmup.jsonl", [*steps, {"step": 50, "train_runtime": 61.0}])
    return path


def test_a_warm_up_alone_is_shown(tmp_path: Path) -> None:
    page = read(write_report([warmup_alone(tmp_path / "warm")], tmp_path / "report.html"))
    text = words(page)
    assert page.errors == []
    assert "SFT warm-up" in text
    assert "90 problems · 3 without solution" in text
    assert "Warm-up loss" in text
    assert "warm-up 1 min 01 s, 100 %" in text
    assert "sgpo train recipe.yaml --stage warmup" in text
    assert "only the warm-up was run" in text
    assert "Not logged by any" not in text


def test_plots_of_nothing_but_zeros_are_named_instead(tmp_path: Path) -> None:
    rows = [{"step": step, "clipped_fraction": 0.0, "truncated/guided": 0.0, "entropy": 0.1} for step in (1, 2)]
    write_lines(tmp_path / "run" / "metrics.jsonl", rows)
    text = words(read(write_report([tmp_path / "run"], tmp_path / "report.html")))
    assert "Zero at every step: Cut off, Clipped ratios." in text
    assert "Share of completions that reached the length limit" not in text


def test_a_folder_of_runs_is_refused_with_their_names(tmp_path: Path) -> None:
    for name in ("grpo", "sgpo"):
        make_run(tmp_path / name, steps=1)
    (tmp_path / "warmup.jsonl").write_text("")  # as a quickstart leaves it
    with pytest.raises(ValueError, match="it holds 2 run directories, give grpo, sgpo"):
        write_report([tmp_path], tmp_path / "report.html")


def test_targets_are_shaded_by_divergence(tmp_path: Path) -> None:
    row = {
        "step": 1,
        "problem_id": "p",
        "tokens": ["<b>", " two", "\n"],
        "divergences": [3.0, 0.25, 0.0],
        "kl_clip": 1.0,
    }
    write_lines(tmp_path / "run" / "targets" / "step-000001.jsonl", [row])
    page = read(write_report([tmp_path / "run"], tmp_path / "report.html"))
    tokens = [attributes for tag, attributes in page.elements if tag == "b" and "data-d" in attributes]
    assert tokens == [
        {"data-d": "3.00", "class": "over", "style": "--s:75"},
        {"data-d": "0.25", "style": "--s:20"},
        {"data-d": "0.00"},
    ]
    assert "<b> two↵" in page.text
    assert "92.3 % of the divergence lies in the 33.3 % of tokens above the clip" in words(page)


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "<b>bold $x$", steps=10, problems=8)
    for file in [*run.glob("*/*.json*"), *run.glob("*.json*")]:
        documents = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        file.write_text("".join(json.dumps(poisoned(document)) + "\n" for document in documents), encoding="utf-8")
    strategy = {
        "id": f"clues-0{HOSTILE}",
        "problem_type": HOSTILE,
        "approach": f"approach {HOSTILE}",
        "steps": [HOSTILE],
    }
    write_lines(run / "strategies.jsonl", [strategy])
    clean = read(write_report([make_run(tmp_path / "clean", steps=10, problems=8)], tmp_path / "clean.html"))
    page = read(write_report([run], tmp_path / "report.html"))
    assert page.errors == []
    assert page.open == []
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in clean.elements}
    assert len(page.scripts) == len(clean.scripts)
    assert page.scripts[-1] == clean.scripts[-1]
    assert not {name for _, attributes in page.elements for name in attributes if name.startswith("on")}
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>pwned" not in text
    assert not set("<>&") & set(page.scripts[0])  # data that holds no markup cannot end its element
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    assert "approach </script >" in page.text
    assert len(re.findall(r"fresh-\d+</script >", page.text)) > 1  # among the flipped problems
    assert "{{ 7*7 }}" in page.text  # no template ran over it
    assert json.loads(page.scripts[0])[0]["cards"][0]["p"].count("␀") == 1


def poisoned(value: object, key: str = "") -> object:
    """The value with hostile text behind every string but those by which rows are counted or found."""
    if key == "samples" and isinstance(value, dict):  # by problem id
        return {name + HOSTILE: kinds for name, kinds in value.items()}
    if isinstance(value, dict):
        return {name: poisoned(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item, key) for item in value]
    if isinstance(value, str) and key not in ("group", "verdict", "name", "samples", "id", "algorithm"):
        return value + HOSTILE
    return value


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (["config.json"], ["config.json is missing", "the runs are not compared"]),
        (["metrics.jsonl"], ["metrics.jsonl is missing: no training curves"]),
        (["eval", "alarms.jsonl"], ["eval/ holds no scores: no learning curve", "Alarms none"]),
        (["rollouts", "targets"], ["no targets", "no problem was sampled both with and without a strategy"]),
        (["eval/fresh-step-000060.jsonl", "targets/step-000001.jsonl"], []),
    ],
)
def test_a_missing_part_is_no_obstacle_and_is_named(
    runs: list[Path], tmp_path: Path, missing: list[str], said: list[str]
) -> None:
    run = copied(runs[1], tmp_path / "sgpo")
    for part in (run / name for name in missing):
        shutil.rmtree(part) if part.is_dir() else part.unlink()
    page = read(write_report([run, runs[0]], tmp_path / "report.html"))
    assert page.errors == []
    assert [text for text in said if text not in words(page)] == []


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "alarms.jsonl", "eval/fresh-step-000060.json"])
def test_a_half_written_file_is_no_obstacle_and_is_named(runs: list[Path], tmp_path: Path, name: str) -> None:
    run = copied(runs[1], tmp_path / "sgpo")
    data = (run / name).read_bytes()
    (run / name).write_bytes(data[: len(data) - 20])
    text = words(read(write_report([runs[0], run], tmp_path / "report.html")))
    assert f"sgpo: {Path(name).name}" in text


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    page = read(write_report([tmp_path / "run"], tmp_path / "report.html"))
    assert page.errors == []
    assert "there is no score to lead with" in words(page)
    assert "kept no completions" in words(page)


def test_values_of_odd_types_are_no_obstacle(runs: list[Path], tmp_path: Path) -> None:
    run = copied(runs[1], tmp_path / "sgpo")
    odd: list[object] = [None, [], {}, "text", True, -1, 10**400, float("nan"), float("inf"), [[]], {"a": {}}]
    files = ("metrics.jsonl", "alarms.jsonl", "rollouts/step-000001.jsonl", "targets/step-000001.jsonl")
    for name in files:
        row = json.loads((run / name).read_text(encoding="utf-8").splitlines()[0])
        write_lines(run / name, [row | {key: value} for key in row for value in odd])
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    (run / "config.json").write_text(json.dumps({key: odd[number % len(odd)] for number, key in enumerate(config)}))
    evaluation = run / "eval" / "fresh-step-000060.json"
    scores = json.loads(evaluation.read_text(encoding="utf-8"))
    for number, (key, value) in enumerate((key, value) for key in scores for value in odd):
        (run / "eval" / f"odd-step-{number:06d}.json").write_text(json.dumps(scores | {"name": "odd", key: value}))
    assert read(write_report([run], tmp_path / "report.html")).errors == []


def test_a_thousand_problems_times_twelve_stay_under_20_megabytes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    letters = "abcdefghijklmnopqrstuvwxyzé∑"
    for step in (1, 2):
        rows = [
            {
                "step": step,
                "problem_id": f"p{problem}",
                "group": "autonomous" if number < 8 else "guided",
                "prompt": "solve <this> & that",
                "completion": f"{step} {problem} {number} " + letters * 40,
                "verdict": "wrong",
                "strategy_id": f"p{problem}",
            }
            for problem in range(1000)
            for number in range(12)
        ]
        write_lines(run / "rollouts" / f"step-{step:06d}.jsonl", rows)
    out = write_report([run], tmp_path / "report.html")
    assert 12e6 < out.stat().st_size < 20e6
    text = words(read(out))
    assert re.search(r"run, training: \d+ of 1,000 problems held here", text)
    assert "24,000 completions" in text or "16,000 completions" in text  # the counts are over all of them


def test_a_refused_run_leaves_no_file(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="not a run directory"):
        write_report([runs[0], tmp_path / "empty"], tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_full_disk_leaves_the_old_report(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(self: Path, text: str, **options: object) -> int:
        self.write_bytes(text[: len(text) // 2].encode("utf-8"))
        raise OSError("no space left on device")

    (tmp_path / "report.html").write_text("the old one")
    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="no space left"):
        write_report([runs[0]], tmp_path / "report.html")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"report.html": b"the old one"}


def test_the_same_runs_give_the_same_page(runs: list[Path], report: Path, tmp_path: Path) -> None:
    again = write_report(runs, tmp_path / "report.html")
    assert again.read_bytes() == report.read_bytes()


def test_the_report_imports_no_torch_and_no_training() -> None:
    code = "import sys, sgpo.report; print([m for m in sys.modules if m in ('torch', 'transformers', 'sgpo.training')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
