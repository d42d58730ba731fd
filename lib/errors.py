"""The one error that a user can cause and repair."""


class InputError(ValueError):
    """A file, a parameter or a device is not what it should be.

    The message is one clear sentence: what was wrong, in which file or parameter, and what to do.
    Command lines print it without a traceback and exit with code 2.
    """
