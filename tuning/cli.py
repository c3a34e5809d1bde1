"""The command line: the verbs of `commands/`, and every foreseeable error as one line and an exit code."""

import logging
import os
import sys
import warnings

import click

from proxytune.datasets import DataError
from proxytune.models.errors import ConfigError
from proxytune.tuning.commands.bench import bench
from proxytune.tuning.commands.compare import compare
from proxytune.tuning.commands.confirm import confirm
from proxytune.tuning.commands.data import data
from proxytune.tuning.commands.doctor import doctor
from proxytune.tuning.commands.evaluate import evaluate
from proxytune.tuning.commands.export import export
from proxytune.tuning.commands.jobs import logs, status, submit
from proxytune.tuning.commands.options import err
from proxytune.tuning.commands.predict import predict
from proxytune.tuning.commands.serve import serve
from proxytune.tuning.commands.steer import enqueue, extend, pause, resume, stop
from proxytune.tuning.commands.study import check, run, show, trials
from proxytune.tuning.commands.track import report, track
from proxytune.tuning.commands.train import train
from proxytune.tuning.commands.ui import ui
from proxytune.tuning.commands.verify import verify
from proxytune.tuning.errors import Interrupted, ProxytuneError, StorageError


class Verbs(click.Group):
    """The exit codes: 0 done, 1 failed, 2 wrong input, 3 held by another driver, 5 storage, 75 interrupted, goes on."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=Verbs, epilog="Exit codes: " + (Verbs.__doc__ or "").partition(": ")[2])
@click.version_option(package_name="proxytune")
def cli() -> None:
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


for verb in (
    data,
    check,
    run,
    show,
    trials,
    enqueue,
    extend,
    stop,
    pause,
    resume,
    submit,
    status,
    logs,
    confirm,
    compare,
    export,
    verify,
    train,
    evaluate,
    predict,
    report,
    track,
    ui,
    serve,
    doctor,
    bench,
):
    cli.add_command(verb)
