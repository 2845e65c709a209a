"""What the commands share."""

from __future__ import annotations

import subprocess
import sys

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
