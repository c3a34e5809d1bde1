"""`export` and `train`: the winner leaves, and runs again."""

from pathlib import Path

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


@click.command()
@click.argument("study")
@click.option("--trial", "number", type=int, help="A trial's number; default: the winner.")
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@storage_option
@database_option
def export(study: str, number: int | None, folder: Path, storage: Path, database: str | None) -> None:
    """Write the winner of STUDY as a folder: configuration, metrics, provenance and weights.

    \b
    proxytune export listops-mini --out winner
    proxytune train winner/config.yaml
    """
    from proxytune.tuning.study import open_study
    from proxytune.tuning.winner.export import export_trial

    opened = open_study(study, storage, database)
    chosen = export_trial(opened, folder, number)
    values = ", ".join(
        f"{name} {value:.4g}"
        for name, value in zip(opened.spec.search.objectives, chosen.values or (), strict=False)
    )
    out.print(f"trial {chosen.number} ({values}) -> {folder.absolute()}", highlight=False)


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@set_option
@click.option(
    "--out", "folder", type=click.Path(path_type=Path), help="Write the trained model as an export folder."
)
@json_option
def train(config: Path, assignments: tuple[str, ...], folder: Path | None, as_json: bool) -> None:
    """Train one configuration: CONFIG is an export's config.yaml, or the export's folder.

    \b
    proxytune train winner/config.yaml
    proxytune train winner --set training.seed=1 --json
    """
    from proxytune.tuning.trial_spec import load_trial
    from proxytune.tuning.winner.export import refuse_existing, write_export
    from proxytune.tuning.winner.train import train_once

    spec = load_trial(config / "config.yaml" if config.is_dir() else config, assignments)
    if folder is not None:
        refuse_existing(folder)
    result = train_once(spec, err)
    if folder is not None:
        write_export(folder, spec, result.metrics, {"source": str(config)}, result.weights)
    if as_json:
        print_json({"step": result.step, "metrics": result.metrics})
    else:
        for name, value in result.metrics.items():
            out.print(f"{name}: {value:.6g}", highlight=False)
