"""The controller: writes every transition of a trial to Optuna's storage (authoritative) and to the outbox (for MLflow).

It belongs to one driver. Ray's adapters (cluster/bridge.py) call `next_trial`, `receive` and `lost`; nothing else changes
a trial. An interrupted trial is WAITING in Optuna and keeps its number and parameters, so `ask` returns it before any
new trial. Its rungs and reports are in the storage, and each step is reported once.
"""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from proxytune.tuning.errors import StorageError
from proxytune.tuning.journal.events import Noted, Reported, Resources, TrialEnded
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.search.enough import StopRule
from proxytune.tuning.search.judgement import Judgement
from proxytune.tuning.search.limits import Limits
from proxytune.tuning.search.packing import Packing
from proxytune.tuning.search.running import Assignment, RunningTrial
from proxytune.tuning.search.samplers import make_sampler
from proxytune.tuning.search.steering import Steering
from proxytune.tuning.search.warm_start import WarmStart, with_earlier
from proxytune.tuning.spec.metrics import any_known
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.attributes import (
    ATTEMPT,
    BUDGET,
    DATA,
    END,
    ENQUEUED_BY,
    GPU_WORST,
    RUNG,
    SECONDS,
    STUDY_ID,
    WARM_START,
    WHOLE_GPU,
    reported_steps,
)
from proxytune.tuning.store.optuna_private import running_trial
from proxytune.tuning.store.requests import Requests
from proxytune.tuning.store.study import trial_checkpoints
from proxytune.tuning.trial.profile import predicted_profile
from proxytune.tuning.trial.update import TrialUpdate


class StudyController:
    """The state of one study, and the only writer of it."""

    def __init__(
        self,
        spec: StudySpec,
        study: optuna.Study,
        storage: RDBStorage,
        outbox: Outbox,
        data_facts: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._spec = spec
        self._study = study
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._outbox = outbox
        self._data_facts = data_facts or {}  # fingerprint and conventions, for every trial's record
        self._judgement = Judgement(spec)
        self.limits = limits or Limits(spec)
        self._rule = StopRule(spec, study, outbox, self.limits)
        self._next_number = 0  # of the next trial that the sampler proposes
        self._id = str(study.user_attrs[STUDY_ID])
        requests = Requests(storage, spec.name, self._id)
        self.steering = Steering(requests, study, outbox, self.limits, self._cancel)
        named = [*spec.search.objectives, *spec.search.constraints]
        self._predicts = any_known("predicted", named)
        self._efficiency = spec.folder / "efficiency" if any_known("measured", named) else None
        self._packing: Packing | None = None
        gpu = spec.resources.gpu
        self._resources = Resources(cpu=spec.resources.cpu, gpu=0.0 if gpu == "auto" else gpu)
        self._earlier: list[FrozenTrial] = []  # of another study, visible only to sampler and stopping rule
        self.live: dict[int, RunningTrial] = {}
        self.notes: list[str] = []

    def reconcile(self) -> None:
        """Repair what an interrupted driver left in the storage. The caller holds the lease."""
        for trial in self._study.get_trials(deepcopy=False):
            self._next_number = trial.number + 1
            end = trial.user_attrs.get(END)
            if trial.state == TrialState.RUNNING and end is not None:
                self._tell(running_trial(self._study, self._trial_id(trial.number)), end)
                self._end_event(trial.number, end)
            elif trial.state == TrialState.RUNNING:
                self._requeue(trial.number, trial.user_attrs.get(ATTEMPT, 1))
            elif trial.state.is_finished() and end is not None:
                self._end_event(trial.number, end)
            self.limits.count(trial)
            self._judgement.restore(trial)
        attributes = self._study.user_attrs
        if attributes.get(WARM_START) is not None:
            earlier = WarmStart.from_json(attributes[WARM_START])
            self._earlier = earlier.frozen_trials(self._spec)
            self.notes += [earlier.summary(), *earlier.notes]
            if SECONDS not in attributes:  # the study has just been created
                self._outbox.append(Noted(text="; ".join([earlier.summary(), *earlier.notes])))
        self.limits.resume(float(attributes.get(SECONDS, 0.0)))

    def stop(self, reason: str, *, now: bool = True) -> None:
        """Start no more trials; interrupt running trials at their next update or, without `now`, let them finish.

        Safe to call from a signal handler.
        """
        self.steering.stop(reason, now)

    def hold(self, resources: Mapping[str, float]) -> None:
        """Set the resources of each trial (`cpu`, `gpu`); a packed trial gets a share of a GPU instead."""
        self._resources = Resources(**resources)

    def pack(self, gpu_mib: float, most: int) -> None:
        """Assign GPU shares to new trials, based on the memory use that earlier drivers measured."""
        self._packing = Packing(gpu_mib, most, float(self._study.user_attrs.get(GPU_WORST, 0.0)))

    @property
    def gpus_taken(self) -> float:
        """GPUs assigned to running trials."""
        return sum(live.gpu or 0.0 for live in self.live.copy().values())

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the data that every trial must train on; None if the task has no prepared data."""
        return self._data_facts.get("fingerprint")

    def requeue_live(self) -> None:
        """Requeue the trials that are still running when the driver exits."""
        for number in list(self.live):
            self._interrupt(number, self.steering.stopping or "the driver stopped")

    def next_trial(self) -> Assignment | None:
        """The next trial to run: an interrupted, an enqueued or a newly sampled trial; None if no trial may start."""
        while not self.finished and self.steering.may_start(len(self.live)):
            if self._rule.ends_before(self._next_number):
                break
            if (assignment := self._ask()) is not None:
                return assignment
        return None

    def _ask(self) -> Assignment | None:
        """Ask Optuna for a trial; None if its prediction violates a constraint: the trial then ends without running."""
        self._study.sampler = make_sampler(self._spec, self._next_number, self._earlier)
        trial = self._study.ask()
        self._next_number = max(self._next_number, trial.number + 1)
        params = self._spec.space.suggest(trial, self._spec.fixed)
        self.limits.started += 1
        spec = self._spec.trial(params)
        if self._predicts and self._infeasible(trial, self._profile(spec, params)):
            return None
        if (who := trial.user_attrs.get(ENQUEUED_BY)) is not None:
            self._outbox.append(Noted(who=who, text=f"enqueued trial {trial.number}"))
        attempt = trial.user_attrs.get(ATTEMPT, 1)
        if self.fingerprint is not None and trial.user_attrs.get(DATA) != self.fingerprint:
            trial.set_user_attr(DATA, self.fingerprint)
        live = RunningTrial(trial, params, attempt, spec)
        if self._packing is not None:
            live.gpu = 1.0 if trial.user_attrs.get(WHOLE_GPU) else self._packing.share(spec)
        previous = self._study.get_trials(deepcopy=False)[trial.number] if attempt > 1 else None
        if previous is not None:
            live.reported = live.step = max(reported_steps(previous), default=0)
            self.limits.spent_steps -= live.step
        self.live[trial.number] = live
        config = spec.model_dump(mode="json") | {"data": self._data_facts}
        self._outbox.append(live.started(self._resources, config))
        checkpoints = trial_checkpoints(self._spec, self._id, trial.number, spec, self.fingerprint)
        return Assignment(trial.number, spec, checkpoints, live.gpu, self._efficiency)

    @property
    def finished(self) -> bool:
        """Whether no further trial will be started."""
        self.poll()
        return self._left == 0

    @property
    def _left(self) -> int:
        """Number of trials still to be started."""
        over = self.steering.stopping is not None or self._rule.reason is not None or self.spent is not None
        return 0 if over else max(0, self.limits.budget - self.limits.started)

    @property
    def demand(self) -> int:
        """Trials that could run now on a cluster of unlimited size, running trials included."""
        wanted = 0 if self.steering.paused_by is not None else len(self.live) + self._left
        return min(wanted, self._spec.resources.max_concurrent or wanted)

    @property
    def spent(self) -> str | None:
        """Message naming the exhausted limit (max_seconds or max_steps); None if neither is exhausted."""
        return self.limits.spent(self.live.copy().values())

    def poll(self) -> None:
        """Handle requests from other terminals, at most once per second.

        A cancelled trial ends here; its worker is notified at its next update, seconds later if it is still starting.
        """
        if not self.steering.due():
            return
        if not self.limits.budget:
            self.limits.budget = int(self._study.user_attrs[BUDGET])
        self.limits.store(self._study)
        self.steering.handle_requests()

    def _cancel(self, number: int, who: str) -> bool:
        """End a trial on request. False: it is waiting and will be ended when it is assigned."""
        if number in self.live:
            self._end(number, Outcome.STOPPED, f"stopped by {who}")
            return True
        return self._study.get_trials(deepcopy=False)[number].state.is_finished()

    def receive(self, number: int, update: TrialUpdate, where: Mapping[str, Any]) -> bool:
        """Record a trial's update and return whether the trial must stop now.

        Raises:
            StorageError: the trial's checkpoint cannot be written or belongs to another training; the trial is requeued.
        """
        if (live := self.live.get(number)) is None:
            return True  # a late report from a worker that was declared lost
        self.notes += [f"trial {number}: {note}" for note in update.notes]
        if update.profile is not None:
            live.metrics = update.profile
        else:
            live.step = update.step
        stopped = None
        if update.metrics is not None:
            live.metrics = update.metrics
            stopped = self._report(live, update.step, update.metrics, where)
        if update.gpu_mib and self._packing is not None and self._packing.record(live.spec, update.gpu_mib):
            self._study.set_user_attr(GPU_WORST, self._packing.worst)
        if update.outcome == Outcome.OUT_OF_MEMORY and live.gpu is not None and live.gpu < 1:
            live.trial.set_user_attr(WHOLE_GPU, True)
            self._interrupt(number, f"out of memory in {live.gpu:g} of a GPU; resumes with a whole GPU")
        elif update.out_of_room:
            self._interrupt(number, update.reason)
            raise StorageError(
                f"trial {number} cannot write a checkpoint: {update.reason}; free disk space, then run the same command again"
            )
        elif update.foreign:
            self._interrupt(number, update.reason)
            raise StorageError(f"trial {number} cannot be resumed: {update.reason}")
        elif (verdict := self._judgement.verdict(update, stopped)) is not None:
            self._end(number, *verdict)
        else:
            self.poll()
            if number not in self.live:
                pass  # cancelled
            elif update.metrics is not None and self.spent is not None:
                self._end(number, Outcome.PRUNED, self.spent)
            elif (interruption := self.steering.hand_back(len(self.live))) is not None:
                self._interrupt(number, *interruption)
        return number not in self.live

    def lost(self, number: int, reason: str) -> None:
        """End the trial as failed: its worker failed more often than max_failures allows."""
        if number in self.live:
            self._end(number, Outcome.FAILED, reason)

    def hand_back(self, number: int, reason: str) -> None:
        """Requeue the trial; it resumes from its newest checkpoint, before any new trial starts."""
        if number in self.live:
            self._interrupt(number, reason)

    def again(self, number: int) -> None:
        """Record another attempt: the worker was lost, and another worker resumes from the newest checkpoint."""
        if (live := self.live.get(number)) is not None:
            live.attempt += 1
            live.trial.set_user_attr(ATTEMPT, live.attempt)
            self._outbox.append(live.started(self._resources))

    def _profile(self, spec: TrialSpec, params: Mapping[str, Any]) -> dict[str, float]:
        """The profile predicted for a trial before it runs."""
        return predicted_profile(spec, "cuda" if self._packing else "cpu")

    def _infeasible(self, trial: optuna.Trial, profile: dict[str, float]) -> bool:
        """Whether the prediction violates a constraint; if so, end the trial as PRUNED without values for the sampler."""
        if broken := self._judgement.broken(profile):
            reason = f"predicted {broken} violates the constraint"
            end = {"outcome": Outcome.INFEASIBLE, "reason": reason, "step": 0, "metrics": profile}
            trial.set_user_attr(END, end)
            self._tell(trial, end)
        return bool(broken)

    def _report(
        self, live: RunningTrial, step: int, metrics: dict[str, float], where: Mapping[str, Any]
    ) -> str | None:
        """Record a report if it is new; return why the trial must stop at a rung, if it must."""
        before, number = live.reported, live.trial.number
        if step > before:
            live.reported = step
            self._outbox.append(Reported(trial=number, step=step, metrics=metrics, **where))
            if len(self._judgement.objectives) == 1:
                live.trial.report(self._judgement.values(metrics)[0], step)
        rungs = self._judgement.bracket(number)
        rung = rungs.crossed(before if step > before else step - 1, step)
        if rung is None:
            return None
        entry = self._judgement.entry(metrics)
        rungs.enter(number, rung, entry)
        if step > before:
            live.trial.set_user_attr(f"{RUNG}{rung}", entry.to_json())
        return self._judgement.stopped_at(rung, number, with_earlier(self._study, self._earlier))

    def _end(self, number: int, outcome: Outcome, reason: str) -> None:
        live = self.live.pop(number)
        self.limits.spent_steps += live.step
        end = live.end(outcome, reason)
        live.trial.set_user_attr(END, end)
        self._tell(live.trial, end)
        self._end_event(number, end)

    def _tell(self, trial: optuna.Trial, end: Mapping[str, Any]) -> None:
        """Report the measured values to Optuna; a trial that did not reach its full budget has no value."""
        for metric, excess in self._judgement.excesses(end).items():
            trial.set_constraint(metric, excess)
        state = TrialState[Outcome(end["outcome"]).optuna_state]
        if state == TrialState.COMPLETE:
            self._study.tell(trial, self._judgement.values(end["metrics"]))
        else:
            self._study.tell(trial, state=state)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _interrupt(self, number: int, reason: str, outcome: Outcome = Outcome.INTERRUPTED) -> None:
        live = self.live.pop(number)
        # `_ask` subtracts these when the trial resumes; a new driver counts the same from the storage.
        self.limits.spent_steps += live.reported
        self._requeue(number, live.attempt)
        self.limits.started -= 1
        self._outbox.append(TrialEnded(trial=number, step=live.step, outcome=outcome, reason=reason))

    def _requeue(self, number: int, attempt: int) -> None:
        trial_id = self._trial_id(number)
        self._storage.set_trial_user_attr(trial_id, ATTEMPT, attempt + 1)
        self._storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def _end_event(self, number: int, end: Mapping[str, Any]) -> None:
        """Append the trial's end to the outbox; the last report's metrics have an event of their own."""
        outcome = Outcome(end["outcome"])
        if outcome is not Outcome.INFEASIBLE:  # it has no run in MLflow
            self._outbox.append(
                TrialEnded(trial=number, step=end["step"], outcome=outcome, reason=end["reason"])
            )
