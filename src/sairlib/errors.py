"""Exceptions that are meant for the person at the keyboard."""


class UserError(ValueError):
    """Bad configuration, bad data, a missing file: what is wrong, where, and what to do, in one line.

    The commands print it without a traceback and exit with a code that is not 0. Anything else that
    escapes is a bug and keeps its traceback.
    """


class NonFiniteError(ArithmeticError):
    """A model produced NaN or inf: a figure made from it would be a lie."""


def out_of_memory(error: Exception) -> bool:
    """Whether a tensor found no room: torch says so by another exception on every kind of device."""
    told = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in told or "can't allocate memory" in told
