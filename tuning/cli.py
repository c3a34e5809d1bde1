"""The command line: the verbs of `commands/`, and every foreseeable error as one line and an exit code."""

import logging
import os
import sys
import warnings
from importlib import import_module
from typing import cast

import click

from proxytune.datasets import DataError
from proxytune.models.errors import ConfigError
from proxytune.tuning.commands.options import err
from proxytune.tuning.errors import Interrupted, ProxytuneError, StorageError

VERBS = {
    "data": ("data",),
    "study": ("check", "run", "show", "trials"),
    "steer": ("enqueue", "extend", "stop", "pause", "resume"),
    "jobs": ("submit", "status", "logs"),
    "confirm": ("confirm",),
    "compare": ("compare",),
    "winner": ("export", "verify", "train", "evaluate", "predict"),
    "track": ("report", "track"),
    "ui": ("ui",),
    "serve": ("serve",),
    "doctor": ("doctor",),
    "bench": ("bench",),
}
"""The verbs of each module of commands/, in the order of --help."""


class Verbs(click.Group):
    """The exit codes: 0 done, 1 failed, 2 wrong input, 3 held by another driver, 5 storage, 75 interrupted, goes on.

    A verb's module is imported when the verb is used: most verbs load torch, Ray or MLflow.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [verb for verbs in VERBS.values() for verb in verbs]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for module, verbs in VERBS.items():
            if cmd_name in verbs:
                loaded = import_module(f"proxytune.tuning.commands.{module}")
                return cast("click.Command", getattr(loaded, cmd_name))
        return None


@click.group(cls=Verbs, epilog="Exit codes: " + (Verbs.__doc__ or "").partition("\n")[0].partition(": ")[2])
@click.version_option(package_name="proxytune")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Search the hyperparameters of Proxyformer and its peers on the Long Range Arena.

    \b
    proxytune check listops-mini                 what would run
    proxytune run listops-mini                   start or resume
    proxytune show listops-mini                  the best so far
    proxytune confirm listops-mini               the best again on fresh seeds, the winner tested once
    proxytune export listops-mini --out winner   the winner as a folder
    proxytune verify winner                      is it what was exported
    proxytune ui                                 browse in MLflow
    """
    if ctx.invoked_subcommand != "data":  # which needs no Optuna
        # Optuna says in a log line what our table shows; experimental parts are chosen with care.
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    logging.getLogger("ray").setLevel(logging.ERROR)


def main() -> None:
    """Entry point: every foreseeable error is one line and an exit code."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(75)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (ConfigError, DataError) as error:
        err.print(f"proxytune: {error}", style="red", highlight=False, markup=False)
        sys.exit(2)
    except ProxytuneError as error:
        err.print(f"proxytune: {error}", style="red", highlight=False, markup=False)
        if isinstance(
            error, Interrupted
        ):  # everything is closed; Ray's own exit hook hangs where Ray has died
            sys.stdout.flush()
            os._exit(error.exit_code)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(75)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:  # a full or read-only disk, wherever it was met
        err.print(f"proxytune: {error}", style="red", highlight=False, markup=False)
        sys.exit(StorageError.exit_code)
