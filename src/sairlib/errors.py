"""The one exception that is meant for the person at the keyboard."""


class UserError(ValueError):
    """Bad configuration, bad data, a missing file: what is wrong, where, and what to do, in one line.

    The commands print it without a traceback and exit with a code that is not 0. Anything else that
    escapes is a bug and keeps its traceback.
    """
