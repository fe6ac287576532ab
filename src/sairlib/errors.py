"""Errors that are meant for the user, the end of a training that was asked to stop, and lack of memory."""

LONGEST_LINE = 1000
"""Of a message, in characters; of a longer one the beginning and the end are shown."""


class UserError(ValueError):
    """Bad configuration, bad data or a missing file. The message says in one line what is wrong, where, and what to do.

    The commands print it without a traceback and exit with a code other than 0. Any other exception is a bug and keeps
    its traceback.
    """


class NonFiniteError(ArithmeticError):
    """A model produced NaN or inf, so no result can be computed from it."""


class Stopped(BaseException):
    """Training ended early because it was asked to, by a signal. Its state is saved."""


def out_of_memory(error: Exception) -> bool:
    """Whether ``error`` means that memory ran out. torch raises a different exception on each kind of device."""
    message = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in message or "can't allocate memory" in message


def one_line(error: BaseException) -> str:
    """The error's message in one line of printable characters; if it is empty, the message of its cause."""
    cause: BaseException | None = error
    while cause is not None and not str(cause).strip():
        cause = cause.__cause__
    text = " ".join(str(cause or type(error).__name__).split())
    shown = text if len(text) <= LONGEST_LINE else f"{text[: LONGEST_LINE // 2]} ... {text[-LONGEST_LINE // 2 :]}"
    return "".join(letter if letter.isprintable() else "?" for letter in shown)  # a file may hold a terminal's commands
