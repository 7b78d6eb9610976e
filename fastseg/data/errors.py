"""What is wrong with somebody's file, as opposed to what is wrong with a program."""


class DataError(ValueError):
    """A file cannot be used; the message names it, the rule and the finding."""


class DataWarning(UserWarning):
    """A file can be used, and the result is probably not what its owner meant."""
