"""The one exception that speaks to the user, and the check that most requests need."""

import errno

# What a person mends outside of the program: space and permissions.
_OUTSIDE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


class UserError(Exception):
    """A mistake the user can mend: one sentence that names the thing and the cure.

    The command line prints it without a traceback and exits with a non-zero status.
    """


def sentence_of(error: BaseException) -> str:
    """What is said of an error that a person can mend; "" for one that only its traceback tells."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _OUTSIDE:
        return f"{error.strerror} ({error.filename}); what was saved before is kept."
    if out_of_memory(error):
        return (
            f"The devices are out of memory ({str(error).splitlines()[0][:200]}): take a smaller "
            "batch, more parts of it (accumulate), remat, or a mesh that splits more."
        )
    return ""


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what a device's runtime or compiler says."""
    return isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def at_least_one(**counts: int) -> None:
    """Raises `UserError` for the first count below 1."""
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name} has to be at least 1, not {count}.")
