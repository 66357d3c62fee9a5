"""The `slidesr` command, which is also `python -m slidesr`."""

import signal


def main() -> None:
    """Runs the command; it stops without a traceback even while it is being loaded."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from slidesr.cli import main as command

    command()


if __name__ == "__main__":
    main()
