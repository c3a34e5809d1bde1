"""The command line: the verbs of `commands/`; expected errors become one line and an exit code."""

import atexit
import gc
import logging
import os
import sys
import warnings
from importlib import import_module
from typing import cast

import click
from click.shell_completion import CompletionItem

from proxytune.models.errors import ConfigError
from proxytune.tuning.commands.options import err
from proxytune.tuning.errors import Interrupted, ProxytuneError, Stopped, StorageError
from proxytune.tuning.store.interrupts import interruptible

VERBS = {
    "init": ("init", "Write a commented study file for TASK."),
    "schema": ("init", "Print the JSON schema of the study file, for editors."),
    "data": ("data", "Find, prepare and inspect the tasks' data on this machine."),
    "check": ("check", "Check STUDY and report what would run."),
    "plan": ("plan", "Predict time, slot-hours and memory of STUDY before it runs."),
    "run": ("study", "Run STUDY until its budget is met: start it or resume it."),
    "studies": ("study", "List the studies of a storage with their state."),
    "show": ("study", "Show a study's trials by outcome and its winner or Pareto front."),
    "trials": ("study", "List every trial with its outcome, parameters and last metrics."),
    "enqueue": ("steer", "Queue a configuration before those that the sampler proposes."),
    "extend": ("steer", "Give STUDY a larger budget."),
    "stop": ("steer", "Stop a study or one of its trials, from any terminal."),
    "pause": ("steer", "Interrupt the running trials and start no trial until `resume`."),
    "resume": ("steer", "Let a paused study start trials again."),
    "submit": ("jobs", "Run STUDY as a job of a Ray cluster."),
    "status": ("jobs", "Show the jobs of a cluster."),
    "logs": ("jobs", "Print the output of a study's last job."),
    "slurm": ("slurm", "Write the job script that runs STUDY under Slurm."),
    "confirm": ("confirm", "Train the best configurations again on fresh seeds and test the winner."),
    "compare": ("compare", "Compare the mechanisms of studies of one task."),
    "export": ("export", "Write the winner of a study as a self-contained folder."),
    "verify": ("verify", "Check that an export is unchanged and its winner follows from its trials."),
    "train": ("train", "Train one configuration, such as that of an export."),
    "evaluate": ("evaluate", "Measure an exported model on a split."),
    "predict": ("predict", "Classify inputs with an exported model."),
    "report": ("track", "Write a page of a study's history."),
    "track": ("track", "Ship a study's events to MLflow."),
    "ui": ("ui", "Open MLflow on the studies."),
    "serve": ("serve", "Serve studies over HTTP."),
    "doctor": ("doctor", "Check a cluster for problems before a study runs."),
    "bench": ("bench", "Measure the cost of each mechanism on this machine."),
}
"""Verbs with their module in commands/ and their line in --help, which needs no import."""

EXIT_CODES = (
    "0 done, 1 failed, 2 wrong input, 3 another driver runs the study, 5 storage, 75 interrupted, resumable"
)


class Verbs(click.Group):
    """Imports a verb's module when the verb is called: torch, Ray, Optuna and MLflow take seconds."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = import_module(f"proxytune.tuning.commands.{VERBS[cmd_name][0]}")
        return cast("click.Command", getattr(module, cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, line) for verb, (_, line) in VERBS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        verbs = [(verb, line) for verb, (_, line) in VERBS.items() if verb.startswith(incomplete)]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(verb, help=line) for verb, line in verbs] + options


@click.group(cls=Verbs, epilog=f"Exit codes: {EXIT_CODES}.")
@click.version_option(package_name="proxytune")
def cli() -> None:
    """Search hyperparameters of Proxyformer and other efficient transformers on the Long Range Arena.

    \b
    proxytune init listops                       a commented study file
    proxytune check listops-mini                 what would run
    proxytune run listops-mini                   start or resume
    proxytune show listops-mini                  the best so far
    proxytune confirm listops-mini               retrain the best on fresh seeds, test the winner once
    proxytune export listops-mini --out winner   the winner as a folder
    proxytune verify winner                      check that the export is unchanged
    proxytune ui                                 browse in MLflow

    Shell completion: eval "$(_PROXYTUNE_COMPLETE=bash_source proxytune)", or zsh_source, fish_source.
    """
    warnings.simplefilter("ignore")
    logging.getLogger("ray").setLevel(logging.ERROR)


FLAGS = {"`again`": "`--again`", "address ": "--address ", "token file ": "--token-file ", "top ": "--top "}
"""Command-line flags for keys in the library's errors; keys that end with a space are replaced at the start only."""


def with_flags(message: str) -> str:
    """Replace the keys in an error of the library by command-line flags."""
    for key, flag in FLAGS.items():
        if not key.endswith(" "):
            message = message.replace(key, flag)
        elif message.startswith(key):
            message = flag + message.removeprefix(key)
    return message


def main() -> None:
    """Entry point: prints expected errors as one line and sets the exit code."""
    # Imports create hundreds of thousands of objects that stay: fewer collections while they are created, and none of
    # them at the exit, save a quarter of the CPU time of `show` and `check`.
    gc.set_threshold(50_000, 20, 100)
    atexit.register(gc.freeze)
    try:
        with interruptible():
            cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(75)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ProxytuneError as error:
        err.print(f"proxytune: {with_flags(str(error))}", style="red")
        if isinstance(error, Interrupted):  # everything is closed; Ray's exit hook hangs if Ray has died
            sys.stdout.flush()
            in_job = (
                "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
            )  # for Ray, a job with an exit code has failed
            os._exit(0 if in_job and isinstance(error, Stopped) else error.exit_code)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(75)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:  # for example a full or read-only disk
        err.print(f"proxytune: {error}", style="red")
        sys.exit(StorageError.exit_code)
    except Exception as error:
        from proxytune.datasets import DataError  # imports numpy

        if not isinstance(error, ConfigError | DataError):
            raise
        err.print(f"proxytune: {error}", style="red")
        sys.exit(2)
