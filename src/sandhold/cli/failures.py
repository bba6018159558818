"""What is said of a command that failed, and its exit status; for either way of running one."""

from __future__ import annotations

import sys
from typing import Final

from sandhold.cli import output
from sandhold.errors import EXIT_FAILED, SbxError

EXIT_INTERRUPTED: Final = 130  # 128 and SIGINT, as a shell says it


def say(error: SbxError | OSError | KeyboardInterrupt) -> int:
    """Say what went wrong and return the exit status."""
    match error:
        case SbxError():
            output.fail(error.message, error.hint)
            return error.status
        case KeyboardInterrupt():
            if sys.stderr.isatty():
                output.say("")  # the cursor stands behind `^C`
            return EXIT_INTERRUPTED
        case BrokenPipeError():
            # Whoever read our output is gone, `sbx ls | head`; nothing is left to say, not even at exit.
            sys.stderr.close()
            return EXIT_FAILED
    about = f"`{error.filename}`: " if error.filename is not None else ""
    output.fail(f"{about}{error.strerror or error}", None)
    return EXIT_FAILED
