"""What ends a command: a mistake that a user can put right, or a signal."""

from signal import Signals


class InputError(ValueError):
    """A file, key or argument is wrong; the message names it and says what to do.

    The command line prints the message as one line and ends with status 2.
    """


class Terminated(SystemExit):
    """A signal told the command to leave, and it does, with what it has done on the disk.

    Args:
        number: Of the signal; the exit status is 128 more.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = Signals(number).name
