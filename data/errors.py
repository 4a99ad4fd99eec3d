"""The one exception that means: the input is wrong, not the program."""


class InputError(ValueError):
    """A mistake in what the user gave us (file, config, argument).

    The message is one line that says what is wrong, where (file, row, column, field) and what would be
    right. The command line prints it and exits with status 2.
    """
