"""`check`: validate a study file before it runs."""

from typing import TYPE_CHECKING

import click

from proxytune.tuning.commands.options import address_option, err, json_option, print_json, with_study_file

if TYPE_CHECKING:
    from proxytune.tuning.spec.study_spec import StudySpec


@click.command()
@with_study_file(stored=True)
@address_option
@click.option(
    "--measure", is_flag=True, help="Measure the cost of the model on this machine, if it is not cached."
)
@json_option
def check(spec: "StudySpec", address: str, measure: bool, as_json: bool) -> None:
    """Check STUDY and report what would run: the resolved file, trials, rungs, data, memory and time.

    Reports the same errors as `run`: missing data, a spent budget, a precision that this machine does not support, a
    warm-start study that does not exist. Data and devices of a cluster are not checked. Nothing is written, except with
    --measure: memory and speed of the model are measured in seconds and cached for later checks.

    \b
    proxytune check listops --measure
    proxytune check my-study.yaml --set search.trials=100 --json
    """
    from proxytune.tuning.spec.advice import advice

    lines = [_budget(spec)]
    if address == "local":
        from proxytune.tuning.trial.local_checks import check_device, find_data

        lines.append(find_data(spec))
        check_device(spec)
    if spec.database or spec.search.warm_start or (spec.folder / "study.db").exists():
        from proxytune.tuning.run.look import check_study

        lines += check_study(spec)
    if as_json:
        print_json(spec.model_dump(mode="json"))
        return
    from proxytune.tuning.spec.yaml_file import as_yaml

    click.echo(as_yaml(spec.model_dump(mode="json")), nl=False)
    for line in lines:
        err.print(line)
    for line in advice(spec):
        err.print(line, style="yellow")
    if address == "local":
        from proxytune.tuning.trial.estimate import estimate

        err.print(estimate(spec, measure=measure).line())


def _budget(spec: "StudySpec") -> str:
    rungs = ", ".join(map(str, spec.rung_steps())) or "none"
    return f"{spec.search.trials} trials of up to {spec.training['steps']} steps, compared at steps: {rungs}"
