"""Kill a driver and its shipper at random points: `crash_rounds.py STORAGE ROUNDS SEED` prints counts as a JSON line.

Every round forks a driver from this process, which has imported MLflow once; the driver forks its shipper. Both run
the product's code (`Outbox`, `shipping.main`) over an MLflow store; the trials are trivial. Kills are SIGKILL.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from proxytune.tuning.journal.events import Reported, StudyEnded, StudyStarted, TrialEnded, TrialStarted
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.spec.locations import default_uri
from proxytune.tuning.spec.outcome import Outcome, StudyStatus
from proxytune.tuning.tracking import mlflow_sync, shipping
from proxytune.tuning.tracking.acknowledgement import Acknowledgement

sys.path.append(str(Path(__file__).parents[3]))
from tests.benchmarks.synthetic import synthetic_spec

NUM_STEPS = 5
mlflow_sync.BATCH_BYTES = 3000  # small batches: more points at which a kill can hit
shipping.POLL_SECONDS = 0.01


def drive(folder: Path, chance: random.Random, num_trials: int | None) -> None:
    """Run three trials at a time; each resumes one step before its last report, as from a checkpoint."""
    outbox = Outbox(folder)
    attempts: dict[int, int] = {}
    steps: dict[int, int] = {}
    ended: set[int] = set()
    for event in read_events(folder).events:
        if event.kind == "trial":
            attempts[event.trial] = event.attempt
        elif event.kind == "report":
            steps[event.trial] = event.step
        elif event.kind == "end" and event.outcome.is_final:
            ended.add(event.trial)
    outbox.append(StudyStarted(study="crash", spec=synthetic_spec("crash")))
    live = [number for number in attempts if number not in ended]
    started = set()
    while True:
        while len(live) < 3 and (num_trials is None or len(attempts) < num_trials):
            live.append(max(attempts, default=-1) + 1)
            attempts[live[-1]] = 0
        if not live:
            break
        number = chance.choice(live)
        if number not in started:
            started.add(number)
            attempts[number] += 1
            steps[number] = max(0, steps.get(number, 0) - 1)
            params = {"model.num_proxies": 16 << number % 5}
            outbox.append(
                TrialStarted(trial=number, params=params, config={"model": params}, attempt=attempts[number])
            )
        elif steps[number] < NUM_STEPS:
            steps[number] += 1
            metrics = {"val_accuracy": number + steps[number] / 7, "val_loss": 1 / (1 + number)}
            outbox.append(Reported(trial=number, step=steps[number], metrics=metrics))
        else:
            live.remove(number)
            outcome = chance.choice([Outcome.COMPLETE, Outcome.PRUNED, Outcome.DIVERGED])
            outbox.append(
                TrialEnded(trial=number, step=NUM_STEPS, outcome=outcome, metrics={"val_accuracy": -1.0})
            )
        time.sleep(chance.uniform(0, 0.02))
    outbox.append(StudyEnded(status=StudyStatus.FINISHED))
    outbox.close()


def fork(work: Any) -> int:
    """Run the function in a forked child that then exits; the child's process id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def driver_with_shipper(folder: Path, uri: str, seed: int, num_trials: int | None) -> None:
    os.setpgid(0, 0)
    read_end, write_end = os.pipe()

    def ship() -> None:
        os.close(write_end)
        os.dup2(read_end, 0)
        sys.stdin = os.fdopen(0)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        shipping.main([str(folder), uri, "proxytune"])

    shipper = fork(ship)
    os.close(read_end)
    drive(folder, random.Random(seed), num_trials)
    os.close(write_end)
    os.waitpid(shipper, 0)


def is_new_creation(now: Acknowledgement, before: Acknowledgement) -> bool:
    """Whether the shipper is about to create runs other than those it was about to create before."""
    return bool(now.creating) and (now.creating, now.offset) != (before.creating, before.offset)


def wait_for_a_creation(folder: Path, uri: str, before: Acknowledgement) -> None:
    """Wait until the shipper is about to create another run: kills at random times alone would hardly hit this point
    on a busy machine."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        now = Acknowledgement.load(folder, uri, "proxytune")
        if is_new_creation(now, before):
            return
        time.sleep(0.001)


def warm_up(storage: Path) -> None:
    """Ship one trial to another store: MLflow's lazy imports are then done before the forks."""
    warm = storage / "warm"
    warm.mkdir()
    shutil.copy(storage / "mlflow.db", warm)
    drive(warm / "study" / "outbox", random.Random(0), 1)
    sync = mlflow_sync.MlflowSync(warm / "study" / "outbox", default_uri(warm), "proxytune")
    while sync.ship():
        pass


def main() -> None:
    storage, rounds, chance = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    warm_up(storage)
    folder, uri = storage / "crash" / "outbox", default_uri(storage)
    counts: Counter[str] = Counter()
    for _ in range(rounds):
        seed = chance.randrange(2**31)
        driver = fork(lambda seed=seed: driver_with_shipper(folder, uri, seed, None))  # type: ignore[misc]
        before = Acknowledgement.load(folder, uri, "proxytune")
        time.sleep(chance.uniform(0.02, 0.6))
        if chance.random() < 0.3:
            wait_for_a_creation(folder, uri, before)
        both = chance.random() < 0.5
        if both:
            os.killpg(driver, signal.SIGKILL)
        else:
            os.kill(driver, signal.SIGKILL)  # the shipper detects it
        os.waitpid(driver, 0)
        counts["kills"] += 1
        counts["kills of both"] += both
        state = Acknowledgement.load(folder, uri, "proxytune")
        counts["kills during creations"] += is_new_creation(state, before)
        counts["kills with events waiting"] += read_events(folder, state.offset).offset > state.offset
    journal = read_events(folder).events
    num_trials = len({event.trial for event in journal if event.kind == "trial"})
    last = fork(lambda: driver_with_shipper(folder, uri, 0, num_trials))
    os.waitpid(last, 0)
    print(json.dumps({"trials": num_trials, "events": len(read_events(folder).events), **counts}))


if __name__ == "__main__":
    main()
