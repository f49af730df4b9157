"""The error that is a user's, not the program's."""


class UserError(ValueError):
    """A mistake in what came from outside: flags, files, data. One line says what was expected.

    The commands print it and end with status 2. Any other exception is a bug with its traceback.
    """
