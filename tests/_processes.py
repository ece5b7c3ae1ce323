"""Other processes for tests: forked off, or from a script."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

TESTS = Path(__file__).parent


def succeeds_in_fork(function):
    """Whether a function returns something true in a forked process."""
    with warnings.catch_warnings():
        # From Python 3.12 on, a warning says what this test is about.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if function() else 1
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def start(code, *arguments):
    """Start a script in a fresh process, beside the modules of the tests."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(process, timeout=120):
    """What a process prints, once it has ended well."""
    out, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors
    return out
