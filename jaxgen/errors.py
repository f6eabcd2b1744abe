"""The one exception that speaks to the user."""


class UserError(Exception):
    """A mistake the user can mend: one sentence that names the thing and the cure.

    The command line prints it without a traceback and exits with a non-zero status.
    """
