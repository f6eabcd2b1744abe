"""The one exception that speaks to the user, and the check that most requests need."""


class UserError(Exception):
    """A mistake the user can mend: one sentence that names the thing and the cure.

    The command line prints it without a traceback and exits with a non-zero status.
    """


def at_least_one(**counts: int) -> None:
    """Raises `UserError` for the first count below 1."""
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name} has to be at least 1, not {count}.")
