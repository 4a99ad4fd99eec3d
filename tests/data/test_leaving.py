"""A process that ends by `leave`: its status, its output and its threads; not the interpreter's tear-down."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def ended(code: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of a process that leaves with the function `main` of the code."""
    code = f"import atexit, sys, threading, time\nfrom data.leaving import leave\n{code}\nleave(main)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("return 0", 0, ""),
        ("return 2", 2, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('x')", 1, "x\n"),
    ],
)
def test_the_status_is_what_main_returns_or_exits_with(end, status, said):
    assert ended(f"def main():\n  print('done')\n  {end}") == (status, "done\n", said)


def test_an_exception_is_shown():
    status, _, said = ended("def main():\n  raise ValueError('why')")
    assert status == 1 and said.endswith("ValueError: why\n")


def test_threads_and_exit_handlers_run_to_their_end():
    code = """
def late():
    time.sleep(0.3)
    print("thread")

def main():
    atexit.register(print, "handler")
    threading.Thread(target=late).start()
    return 0
"""
    assert ended(code) == (0, "thread\nhandler\n", "")


def test_the_interpreter_is_not_torn_down():
    """Objects of modules are not freed, so no library's threads run into an interpreter that is going."""
    code = "class Kept:\n  def __del__(self):\n    print('freed')\nkept = Kept()\ndef main():\n  return 0"
    assert ended(code) == (0, "", "")


def test_a_reader_who_has_gone_is_no_traceback():
    read, write = os.pipe()
    os.close(read)
    code = "from data.leaving import leave\nleave(lambda: print('x') or 0)"
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with os.fdopen(write) as out:
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, cwd=ROOT, env=buffered, stdout=out, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1 and done.stderr == b""
