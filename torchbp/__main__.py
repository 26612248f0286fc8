"""Starts the ``torchbp`` command: reports an interrupt in one line, also while its modules are imported."""

import os
import signal
import sys


def main() -> int:
    """Run the command of this process's arguments; returns its exit status."""

    def interrupted(*_: object) -> None:
        os.write(2, b"torchbp: error: interrupted\n")
        os._exit(130)

    mine = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if mine:
        signal.signal(signal.SIGINT, interrupted)
    from torchbp import cli

    if mine:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
