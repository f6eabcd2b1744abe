"""`jaxgen`, also as `python -m jaxgen`. The supervisor starts without what training needs."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Runs one command and exits."""
    if sys.argv[1:2] != ["supervise"]:
        from jaxgen.cli import main as command_line

        return command_line()
    from jaxgen.errors import UserError
    from jaxgen.supervision.command import supervise

    try:
        supervise(sys.argv[2:])
    except BrokenPipeError:  # whoever reads the help has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (UserError, OSError) as mistake:
        print(f"jaxgen: {mistake}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
