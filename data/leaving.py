"""The end of a process whose libraries run threads of their own."""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn


def leave(main: Callable[[], int]) -> NoReturn:
    """Call `main` and end the process with the status it returns, without tearing the interpreter down.

    What the interpreter does first is done: threads that are not daemons are waited for, exit handlers run, what was
    printed is flushed. The tear-down is left out since before Python 3.14 it ends a native thread that asks for the GIL
    inside C++, which aborts the process: a gloo thread that lets go of its last tensor a moment late turned a training
    that had succeeded into SIGABRT. `multiprocessing` ends forked processes the same way.
    """
    try:
        status = main()
    except SystemExit as stop:  # argparse
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has gone
        status = status or 1
    sys.stderr.flush()
    os._exit(status)
