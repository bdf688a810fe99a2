"""The one exception that means: the input or the request was wrong, not featlab."""

from __future__ import annotations


class FeatlabError(ValueError):
    """A mistake that the user can mend: what was given, what is allowed, what to do.

    The command line prints the message and exits with 1; any other exception is a defect of
    featlab and keeps its traceback.
    """


class PictureGoneError(FeatlabError):
    """A picture that was read when it was indexed is missing, another, or damaged by now.

    Parameters
    ----------
    file, reason : object
        The message is both.
    """

    @property
    def reason(self) -> str:
        """What is wrong with it, without its name."""
        return str(self.args[1])

    def __str__(self) -> str:
        return f"{self.args[0]} {self.args[1]}"
