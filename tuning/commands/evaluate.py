"""`evaluate`: evaluate an exported model on the validation or the test split."""

from pathlib import Path

import click

from proxytune.tuning.commands.options import err, json_option, out, print_json, set_option


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--split", type=click.Choice(["val", "test"]), required=True, help="The examples to evaluate on."
)
@click.option("--again", is_flag=True, help="Open the test split again; every later export records it.")
@set_option
@json_option
def evaluate(folder: Path, split: str, again: bool, assignments: tuple[str, ...], as_json: bool) -> None:
    """Evaluate the exported model in FOLDER. Opening the test split is recorded; a second opening needs --again.

    \b
    proxytune evaluate winner --split val
    proxytune evaluate winner --split val --set task.root=/mnt/lra    data in another folder
    """
    from proxytune.tuning.predict.evaluate import evaluate_export
    from proxytune.tuning.predict.exported import load_export
    from proxytune.tuning.store.steering import terminal_user

    exported = load_export(folder, assignments)
    facts = evaluate_export(exported, split, who=terminal_user(), again=again, console=err)
    if as_json:
        print_json(facts)
        return
    recorded = f" (recorded: {facts['recorded_accuracy']:.4f})" if "recorded_accuracy" in facts else ""
    openings = f"; opening {facts['openings']} of the test split" if "openings" in facts else ""
    out.print(
        f"{split}: accuracy {facts['accuracy']:.4f}{recorded}, loss {facts['loss']:.4f} nats on "
        f"{facts['num_examples']:,} examples{openings}",
    )
    if not facts["same_data"]:
        out.print("this is not the data that the model was exported with")
