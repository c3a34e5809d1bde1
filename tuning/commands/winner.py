"""`export`, `verify`, `train`, `evaluate`, `predict`: the winner leaves, is checked, and runs again."""

import getpass
import json
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxytune.tuning.commands.options import (
    database_option,
    err,
    json_option,
    out,
    print_json,
    set_option,
    storage_option,
)
from proxytune.tuning.errors import InputError, ProxytuneError

if TYPE_CHECKING:
    from proxytune.tuning.export.choose import Limits
    from proxytune.tuning.store.study import Study

folder_argument = click.argument("folder", type=click.Path(path_type=Path))


@click.command()
@click.argument("study")
@click.option(
    "--trial", "number", type=int, help="A trial's number; default: the confirmed winner, else the best."
)
@click.option("--pareto", is_flag=True, help="A folder for each point of the Pareto front, and an index.")
@click.option(
    "--max-memory-mib",
    type=click.FloatRange(min=0, min_open=True),
    help="The best trial of at most so many MiB a sequence in training.",
)
@click.option(
    "--min-throughput",
    type=click.FloatRange(min=0, min_open=True),
    help="The best trial of at least so many sequences trained per second.",
)
@click.option("--out", "path", required=True, help="The folder to write, or s3://bucket/prefix.")
@click.option("--register/--no-register", default=True, help="Register the model in the study's MLflow.")
@storage_option
@database_option
def export(
    study: str,
    number: int | None,
    pareto: bool,
    max_memory_mib: float | None,
    min_throughput: float | None,
    path: str,
    register: bool,
    storage: Path,
    database: str | None,
) -> None:
    """Write the winner of STUDY as a folder that runs anywhere: model, configuration, card, the whole search, sums.

    \b
    proxytune export listops-mini --out winner
    proxytune export listops-mini --pareto --out front
    proxytune export listops-mini --max-memory-mib 4 --out small
    proxytune export listops-mini --out s3://bucket/winner
    proxytune verify winner
    """
    from proxytune.tuning.export.choose import Limits
    from proxytune.tuning.export.destination import destination
    from proxytune.tuning.store.study import open_study

    limits = Limits(max_memory_mib=max_memory_mib, min_throughput=min_throughput)
    if (number is not None) + pareto + bool(limits) > 1:
        raise InputError(
            "--trial, --pareto and --max-memory-mib / --min-throughput exclude each other; take one"
        )
    opened = open_study(study, storage, database)
    with destination(path) as folder:
        _export_to(folder, path, opened, number, pareto, limits, register)


def _export_to(
    folder: Path,
    path: str,
    opened: "Study",
    number: int | None,
    pareto: bool,
    limits: "Limits",
    register: bool,
) -> None:
    from proxytune.tuning.export.export import export_study

    with err.status("choosing") as status:
        written = export_study(
            opened, folder, number=number, pareto=pareto, limits=limits, say=lambda line: status.update(line)
        )
    for one in written:
        shown = (
            str(one.folder.absolute()).replace(str(folder.absolute()), path)
            if "://" in path
            else one.folder.absolute()
        )
        values = ", ".join(f"{name} {value:.4g}" for name, value in one.record.values.items())
        out.print(f"trial {one.record.trial} ({values}) -> {shown}", highlight=False)
    if not register:
        return
    from proxytune.tuning.predict.registry import ALIAS
    from proxytune.tuning.predict.registry import register as register_models

    with err.status("registering in MLflow"):
        try:
            models = register_models(opened, written)
        except ProxytuneError as error:
            err.print(
                f"not registered: {error}. The export is complete without it", highlight=False, markup=False
            )
            return
    for model in models:
        alias = f", alias {ALIAS}" if model["best"] else ""
        out.print(
            f"registered in MLflow as {model['name']} version {model['version']}{alias}", highlight=False
        )


@click.command()
@folder_argument
@json_option
def verify(folder: Path, as_json: bool) -> None:
    """Check that FOLDER is what was exported, and that its winner is the one that its rule chooses.

    Names each file and field that is not as it should be, and then ends with 1.

    \b
    proxytune verify winner
    """
    from proxytune.tuning.export.verify import verify_export

    with err.status("verifying"):
        problems = verify_export(folder)
    if as_json:
        print_json({"folder": str(folder), "intact": not problems, "problems": problems})
    else:
        for line in problems:
            out.print(line, highlight=False, markup=False)
    if problems:
        raise ProxytuneError(f"{folder} is not as it was exported: {len(problems)} problems")
    if not as_json:
        out.print(f"{folder} is as it was exported, and its winner follows from its trials", highlight=False)


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@set_option
@click.option("--seeds", "num_seeds", type=click.IntRange(min=1), default=1, help="Train from so many seeds.")
@click.option(
    "--out", "folder", type=click.Path(path_type=Path), help="Write the trained model as an export folder."
)
@json_option
def train(
    config: Path, assignments: tuple[str, ...], num_seeds: int, folder: Path | None, as_json: bool
) -> None:
    """Train one configuration: CONFIG is an export's config.yaml, or the export's folder.

    \b
    proxytune train winner/config.yaml
    proxytune train winner --set training.seed=1 --json
    proxytune train winner --seeds 5            mean and 95 % interval
    """
    from proxytune.tuning.export.export import refuse_existing, whole, write_folder
    from proxytune.tuning.predict.exported import load_export
    from proxytune.tuning.predict.train import over_seeds, train_once, train_seeds
    from proxytune.tuning.spec.trial_spec import load_trial

    spec = load_export(config, assignments).spec if config.is_dir() else load_trial(config, assignments)
    if folder is not None:
        if num_seeds > 1:
            raise InputError(f"--out writes one model, --seeds {num_seeds} trains several; take one of them")
        refuse_existing(folder)
    if num_seeds > 1:
        results = train_seeds(spec, num_seeds, err)
        summary = over_seeds(results)
        if as_json:
            print_json({"seeds": results, "over_seeds": summary})
            return
        for name, found in summary.items():
            low, high = found["interval"]
            line = f"{name}: {found['mean']:.6g} (95 % interval {low:.6g} to {high:.6g})"
            out.print(line, highlight=False)
        return
    result = train_once(spec, err)
    if folder is not None:
        with whole(folder) as temporary, err.status("writing") as status:
            write_folder(
                temporary,
                spec,
                result.metrics,
                {"source": str(config)},
                result.weights,
                sweep=None,
                say=lambda line: status.update(line),
            )
    if as_json:
        print_json({"step": result.step, "metrics": result.metrics})
    else:
        for name, value in result.metrics.items():
            out.print(f"{name}: {value:.6g}", highlight=False)


@click.command()
@folder_argument
@click.option(
    "--split", type=click.Choice(["val", "test"]), required=True, help="The examples to evaluate on."
)
@click.option("--again", is_flag=True, help="Open the test split although it has been opened before.")
@set_option
@json_option
def evaluate(folder: Path, split: str, again: bool, assignments: tuple[str, ...], as_json: bool) -> None:
    """Evaluate the exported model in FOLDER. Opening the test split is recorded, and refused a second time.

    \b
    proxytune evaluate winner --split val
    proxytune evaluate winner --split val --set task.root=/mnt/lra    where the data lie elsewhere
    """
    from proxytune.tuning.predict.evaluate import evaluate_export
    from proxytune.tuning.predict.exported import load_export

    who = f"{getpass.getuser()}@{socket.gethostname()}"
    facts = evaluate_export(load_export(folder, assignments), split, who=who, again=again, console=err)
    if as_json:
        print_json(facts)
        return
    recorded = f" (recorded: {facts['recorded_accuracy']:.4f})" if "recorded_accuracy" in facts else ""
    openings = f"; opening {facts['openings']} of the test split" if "openings" in facts else ""
    out.print(
        f"{split}: accuracy {facts['accuracy']:.4f}{recorded}, loss {facts['loss']:.4f} nats on "
        f"{facts['num_examples']:,} examples{openings}",
        highlight=False,
    )
    if not facts["same_data"]:
        out.print("the data here is not the data that the model was exported with", highlight=False)


@click.command()
@folder_argument
def predict(folder: Path) -> None:
    """Classify lines of standard input by the exported model in FOLDER; a JSON object a line, in their order.

    A line is an example in the task's own form: a text; a ListOps expression; two texts with a tab between them; the
    grey levels of a picture, 0 to 255 row by row, with blanks between them. A line that is not gets an object with `error` in
    place of `label`, and the exit code is then 1 at the end.

    \b
    echo '[MAX 2 9 [MIN 4 7 ] 0 ]' | proxytune predict winner
    """
    from proxytune.tuning.predict.exported import load_export
    from proxytune.tuning.predict.predict import predict_stream

    refused: list[str] = []
    number = 0
    for answer in predict_stream(load_export(folder), sys.stdin.buffer):
        number = answer["line"]
        if "error" in answer:
            refused.append(f"line {number}: {answer['error']}")
        click.echo(json.dumps(answer))
    if refused:
        raise ProxytuneError(f"{len(refused)} of {number} lines could not be read; {refused[0]}")
