"""Record learning curves of real trainings in a study's search space, for the simulated searches of the race.

`python -m tests.benchmarks.curves listops-mini curves.jsonl --configurations 240 --processes 2`
"""

import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import click
import optuna

from proxytune.tuning.spec.study_files import read_study
from proxytune.tuning.trial.trial_run import TrialRun


def record(study: str, number: int) -> dict[str, Any]:
    """Train the configuration that the random sampler draws with seed `number` for all steps of the study.

    Returns the parameters and, per report, step, metrics and CPU seconds since the start. With one torch thread, CPU
    seconds equal the wall time on an idle machine and do not depend on the load.
    """
    spec = read_study(study)
    search = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number))
    params = spec.space.suggest(search.ask(), {})
    run = TrialRun(spec.trial(params), checkpoints=None)
    began = time.process_time()
    reports = []
    while True:
        update = run.advance()
        if update.metrics is not None:
            seconds = time.process_time() - began
            reports.append(
                {
                    "step": update.step,
                    "cpu_seconds": round(seconds, 3),
                    "val_accuracy": update.metrics["val_accuracy"],
                    "val_loss": round(update.metrics["val_loss"], 5),
                }
            )
        if update.outcome != "running":
            return {"number": number, "params": params, "outcome": update.outcome, "reports": reports}


@click.command()
@click.argument("study")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--configurations", type=click.IntRange(min=1), default=240, show_default=True)
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True)
def main(study: str, path: Path, configurations: int, processes: int) -> None:
    """Append the missing configurations of STUDY to PATH, as one JSON object per line."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    done = {json.loads(line)["number"] for line in path.read_text().splitlines()} if path.exists() else set()
    missing = [number for number in range(configurations) if number not in done]
    with ProcessPoolExecutor(processes) as pool, path.open("a", encoding="utf-8") as file:
        for finished in as_completed([pool.submit(record, study, number) for number in missing]):
            file.write(json.dumps(finished.result()) + "\n")
            file.flush()
            click.echo(f"{path}: {len(path.read_text().splitlines())} of {configurations}", err=True)


if __name__ == "__main__":
    main()
