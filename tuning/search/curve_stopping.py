"""The `curve` stopping rule: a trial is stopped at a rung when it can hardly become the best.

The curve model predicts the value f of every started trial at the full budget, from all learning curves. A trial stops
if P(f > f*) < MIN_CHANCE, where f* is the predicted value of the best complete trial, or of the best other trial while
none is complete. How much an early value counts is learnt from the study: where the first evaluations say little about
the last, predictions stay uncertain and trials continue; where they rank well, bad trials stop at the first rung.
Domhan et al. (2015) stop by the same probability, predicted from one curve by parametric functions; here it is a
Gaussian process over all curves (Swersky et al. 2014, arXiv 1406.3896), which also decides what the `curve` sampler
proposes.
"""

import optuna
from scipy.special import ndtr

from proxytune.tuning.search.curve_history import CurveHistory, is_feasible
from proxytune.tuning.search.encoding import Encoding
from proxytune.tuning.spec.study_spec import StudySpec

MIN_CHANCE = 0.05


def chance(spec: StudySpec, study: optuna.Study, number: int) -> float | None:
    """The probability that the running trial `number` becomes the best trial of a study with one objective.

    `study` may begin with trials of an earlier study, numbered -1: they inform the model and are not rivals.

    None: too few trials have a value (NUM_STARTUP), or no other trial is feasible.
    """
    history = CurveHistory.read(spec, study, Encoding(spec.space, spec.fixed))
    if history is None:
        return None
    others = [row for row in history.complete if history.trials[row].number >= 0] or [
        row
        for row, trial in enumerate(history.trials)
        if trial.number != number and not trial.state.is_finished() and is_feasible(trial)
    ]
    if not others:
        return None
    own = [row for row, trial in enumerate(history.trials) if trial.number == number]
    mean, deviation = history.model.final(history.points[own])
    best = history.model.mean(history.points[others]).max()
    return float(ndtr((mean - best) / deviation)[0])
