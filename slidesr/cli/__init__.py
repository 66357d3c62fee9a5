"""The command line: parse, build dataclasses, call one function, show the result."""

from __future__ import annotations

import logging
import os
import sys
import traceback

import click

from slidesr import __version__
from slidesr.cli import interrupts
from slidesr.cli.commands.benchmark import benchmark
from slidesr.cli.commands.convert import convert
from slidesr.cli.commands.demo import demo
from slidesr.cli.commands.doctor import doctor
from slidesr.cli.commands.info import info, models
from slidesr.cli.commands.patches import patches
from slidesr.cli.commands.train import train
from slidesr.cli.commands.upscale import upscale
from slidesr.cli.commands.verify import verify
from slidesr.cli.commands.view import view
from slidesr.cli.show import LineHandler, failure
from slidesr.errors import SlidesrError, StoppedError, explained
from slidesr.runtime.standard_files import open_standard_files


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="slidesr")
def cli() -> None:
    """Upscale whole pathology slides with WA-SRGAN: a slide in, a slide out.

    The result is synthetic: it shows what the network finds likely. It is not for diagnosis.
    """


for _command in (
    upscale,
    info,
    convert,
    verify,
    view,
    models,
    demo,
    patches,
    train,
    benchmark,
    doctor,
):
    cli.add_command(_command)


def main() -> None:
    """The entry point of the `slidesr` command."""
    open_standard_files()
    logger = logging.getLogger("slidesr")
    logger.addHandler(LineHandler())
    logger.setLevel(logging.INFO)
    logging.getLogger().addHandler(logging.NullHandler())  # records of libraries are not for users
    logging.captureWarnings(True)
    if not os.environ.get("SLIDESR_DEBUG"):
        sys.unraisablehook = _nothing  # errors of tasks that a library leaves behind
    interrupts.install()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs a command; every failure becomes one line on stderr and the exit code of the design.

    SLIDESR_DEBUG=1 in the environment adds the traceback.
    """
    try:
        code = cli(arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _stopped("stopped; nothing was left behind")
    except StoppedError as error:
        return _stopped(str(error))
    except Exception as error:
        if interrupts.exit_code() and not isinstance(error, SlidesrError):
            # a library reported the stop as an error
            return _stopped("stopped; nothing was left behind")
        message, code = explained(error)
        _say(message)
        return code
    return code if isinstance(code, int) else 0  # what a command gives to `Context.exit`


def _say(message: str) -> None:
    if os.environ.get("SLIDESR_DEBUG"):
        traceback.print_exc()
    failure(message)


def _nothing(unraisable: object) -> None:
    pass


def _stopped(message: str) -> int:
    _say(message)
    return interrupts.exit_code() or StoppedError.exit_code
