"""What the commands share, and how the command ends."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import sgpo
from tests.evaluation.test_comparison import GRPO, SGPO, write_run

WORK = """
import os, subprocess, sys
from sgpo.cli.common import print_json, work_on_stderr
with work_on_stderr() as output:
    print("printed")
    os.write(1, b"written\\n")
    command = [sys.executable, "-c", "import sys; sys.stdin.read(); print('late')"]
    late = subprocess.Popen(command, stdin=subprocess.PIPE)
print_json({"result": 1}, output)
late.communicate()
"""


def test_standard_output_is_the_result_alone_whoever_else_prints():
    """Also a process that was started during the work and still prints after it."""
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == '{\n  "result": 1\n}\n'
    assert sorted(done.stderr.split()) == ["late", "printed", "written"]


@pytest.mark.parametrize("start", [["-m", "sgpo"], ["-c", "from sgpo.cli import main; main()"]])
def test_the_version(start: list[str]) -> None:
    command = [sys.executable, *start, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (f"sgpo {sgpo.__version__}\n", "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["--help", "compare grpo sgpo", "compare grpo sgpo --json"])
def test_a_reader_that_goes_away_ends_the_command_quietly(tmp_path: Path, words: str, unbuffered: str) -> None:
    """As `| head` does. The pipe breaks where a command prints, or, with a buffer, when the buffer is flushed last."""
    for name, evaluations in (("grpo", GRPO), ("sgpo", SGPO)):
        write_run(tmp_path / name, evaluations)
    command = f"{shlex.quote(sys.executable)} -m sgpo {words}"
    # `true` reads nothing and ends at once, and the command starts when it has.
    script = f"{{ sleep 0.3; {command}; }} | true; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=120, check=True, cwd=tmp_path, env=environment
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_the_public_names_resolve_and_are_listed() -> None:
    names = {
        "Problem", "SGPOConfig", "SGPOTrainer", "Strategy", "StrategyBank", "Verdict", "Verifier", "load_problems",
        "write_report", "SGPOError", "InputError", "EndpointError", "BudgetError", "BankError", "RunDirectoryError",
            "DivergedError",
    }  # fmt: skip
    assert set(sgpo.__all__) == names
    assert names <= set(dir(sgpo))
    for name in names:
        assert getattr(sgpo, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'SGPOTrainr'"):
        _ = sgpo.SGPOTrainr
