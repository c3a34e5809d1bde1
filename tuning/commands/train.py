"""`train`: train one configuration outside a search."""

from contextlib import nullcontext
from pathlib import Path

import click

from proxytune.tuning.commands.options import err, json_option, out, print_json, set_option
from proxytune.tuning.errors import InputError


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@set_option
@click.option(
    "--seeds",
    "num_seeds",
    type=click.IntRange(min=1),
    default=1,
    help="Number of seeds, starting at training.seed.",
)
@click.option(
    "--out", "folder", type=click.Path(path_type=Path), help="Write the trained model as an export folder."
)
@json_option
def train(
    config: Path, assignments: tuple[str, ...], num_seeds: int, folder: Path | None, as_json: bool
) -> None:
    """Train one configuration: CONFIG is the config.yaml of an export, or its folder.

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
            raise InputError(
                f"--out writes one model, --seeds {num_seeds} trains several; use only one of them"
            )
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
            out.print(line)
        return
    with nullcontext() if folder is None else whole(folder) as temporary:  # fails before the training
        result = train_once(spec, err)
        if temporary is not None:
            with err.status("writing") as status:
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
            out.print(f"{name}: {value:.6g}")
