"""What a person sees when a command cannot do what it was asked."""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_HELD = 125


class SbxError(Exception):
    """A failure in the words of the person who typed the command; `cli/failures.py` says it.

    `message` says what is wrong, `hint` what to type next. `status` is the exit status: 1 failed or denied, 2 wrong
    usage, 125 the sandbox could not be held.
    """

    def __init__(self, message: str, *, hint: str | None = None, status: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status
