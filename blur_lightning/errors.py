"""The one exception for what a user can put right."""


class InputError(ValueError):
    """A file, key or argument is wrong; the message names it and says what to do.

    The command line prints the message as one line and ends with status 2.
    """
