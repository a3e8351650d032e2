"""How main.py ends: exit codes, and errors as one line for people.

0    done, or stopped by Ctrl-C after a checkpoint
1    an error that will come again: the last line says what to do
2    a wrong command line
75   (EX_TEMPFAIL) run the same line again: stopped by SIGTERM after a checkpoint; another process was lost, stood still
     or did not come; or another run is still using the workdir
130  stopped by Ctrl-C with nothing new saved: in another mode, before the first step, or by a second one
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

INTERRUPTED = 128 + signal.SIGINT  # exit code
FOR_PEOPLE = (ValueError, OSError, MemoryError, FloatingPointError)


@contextlib.contextmanager
def report_errors(output: str) -> Iterator[None]:
    """End the program with a readable line where what is inside fails, and tell the other processes.

    output: folder or file that is written, for a full disk.
    """
    try:
        yield
        processes.finish()
    except Stopped as stopped:
        saved = stopped.step is not None
        if processes.rank() == 0 and saved:
            print(json.dumps({"stopped_at_step": stopped.step}))
        elif processes.rank() == 0:
            print("stopped; there was nothing new to save", file=sys.stderr)
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
        expected = isinstance(error, FOR_PEOPLE) and not absl_logging.level_debug()
        if not expected and processes.count() == 1:
            raise
        if not expected:  # Python would wait for the others, which wait for this one
            traceback.print_exc()
        processes.abort(RETRY if isinstance(error, WorkdirInUse) else 1, _describe(error, output))


def _describe(error: Exception, output: str) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # of a file that any part of it writes
        where = error.filename or output
        return f"{where} cannot be written: the disk is full; what was saved before is whole. Free the disk, run again"
    return str(error) if isinstance(error, FOR_PEOPLE) and str(error) else f"{type(error).__name__}: {error}"
