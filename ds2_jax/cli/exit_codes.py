"""Exit codes of main.py, and errors as one-line messages.

0    done, or stopped by Ctrl-C after a checkpoint
1    an error that would occur again; the last line says what to do
2    an invalid command line
75   (EX_TEMPFAIL) run the same command again: stopped by SIGTERM after a checkpoint; another process was lost, stalled or
     did not connect; a worker process was killed; or another run is using the workdir
130  stopped by Ctrl-C with nothing new saved: in a mode other than train, before the first step, or by a second Ctrl-C
143  the same by SIGTERM
"""

import contextlib
import errno
import json
import signal
import sys
import traceback
from collections.abc import Iterator

from absl import logging as absl_logging

from ds2_jax.artifacts.workdir import WorkdirInUse
from ds2_jax.parallel import processes
from ds2_jax.parallel.stopping import Interrupted, Stopped
from ds2_jax.parallel.watch import RETRY
from input_pipeline.batches.workers import WorkerKilledError
from input_pipeline.storage.console import escape

INTERRUPTED = 128 + signal.SIGINT  # exit code
TEMPORARY = (WorkdirInUse, WorkerKilledError)
USER_ERRORS = (ValueError, OSError, MemoryError, FloatingPointError)  # reported without a traceback


@contextlib.contextmanager
def report_errors(output: str) -> Iterator[None]:
    """End the program with a one-line message if the block fails, and inform the other processes.

    output: the folder or file being written, for the message about a full disk.
    """
    try:
        yield
        processes.finish()
    except Stopped as stopped:
        saved = stopped.step is not None
        if processes.rank() == 0 and saved:
            print(json.dumps({"stopped_at_step": stopped.step}))
        elif processes.rank() == 0:
            print("stopped with nothing new to save", file=sys.stderr)
        processes.finish()
        sys.exit(RETRY if stopped.signal == signal.SIGTERM else 0 if saved else INTERRUPTED)
    except Interrupted as interrupt:
        processes.abort(128 + interrupt.signal, str(interrupt))
    except KeyboardInterrupt:
        if processes.count() == 1:
            print("interrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)
        processes.abort(INTERRUPTED, "interrupted by Ctrl-C")
    except Exception as error:
        processes.explain_broken_connection(error)
        expected = isinstance(error, USER_ERRORS) and not absl_logging.level_debug()
        if not expected and processes.count() == 1:
            raise
        if not expected:  # a plain raise would wait for the other processes, which wait for this one
            traceback.print_exc()
        processes.abort(RETRY if isinstance(error, TEMPORARY) else 1, escape(_describe(error, output), keep="\n\t"))


def _describe(error: Exception, output: str) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # any file may be the first that does not fit
        return (
            f"{error.filename or output} cannot be written, because the disk is full; files saved before are intact: free "
            "disk space and run the same command again"
        )
    return str(error) if isinstance(error, USER_ERRORS) and str(error) else f"{type(error).__name__}: {error}"
