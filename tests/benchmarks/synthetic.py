"""Synthetic journal events of a study, for benchmarks and tests.

Trials run concurrently on a few workers in virtual time. Their learning curves saturate at a height that depends on the
parameters. They end as complete, pruned at a rung, diverged or out of memory.
"""

import heapq
import math
import random
from collections.abc import Iterator
from typing import Any

from proxytune.tuning.journal.events import (
    Event,
    Reported,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialEvent,
    TrialStarted,
)
from proxytune.tuning.spec.outcome import Outcome, StudyStatus

START_MS = 1_700_000_000_000
STEP_SECONDS = 0.02


def synthetic_spec(name: str = "synthetic", num_trials: int = 40, steps: int = 5000) -> dict[str, Any]:
    """A resolved study spec, as in the event `study`."""
    return {
        "name": name,
        "task": {"name": "listops-mini", "root": None, "max_length": None, "train_examples": None},
        "model": {"attention": "proxyformer", "num_layers": 2, "embedding_dim": 64, "num_proxies": 128},
        "training": {
            "steps": steps,
            "batch_size": 32,
            "learning_rate": 1e-4,
            "eval_every": steps // 20,
            "seed": 0,
        },
        "search": {
            "space": {
                "model.num_proxies": {"choice": [16, 32, 64, 128, 256]},
                "model.contrastive_temperature": {"low": 0.02, "high": 1.0, "log": True},
                "model.dropout": {"low": 0.0, "high": 0.4},
            },
            "objectives": {"val_accuracy": "maximize"},
            "sampler": {"name": "tpe", "seed": 0},
            "stopping": {"name": "asha", "min_steps": steps // 20, "reduction_factor": 3},
            "trials": num_trials,
        },
        "resources": {"cpu": 1, "gpu": 0},
    }


def synthetic_events(
    num_trials: int = 40, *, steps: int = 5000, num_workers: int = 4, seed: int = 0, name: str = "synthetic"
) -> Iterator[Event]:
    """All events of an uninterrupted study, in chronological order."""
    chance = random.Random(seed)
    spec = synthetic_spec(name, num_trials, steps)
    facts = {
        "git_revision": "0" * 40,
        "versions": {"python": "3.11", "torch": "2.13.0"},
        "hardware": {"host": "synthetic", "cpus": num_workers},
        "data_fingerprint": f"{seed:064x}",
        "conventions": {"padding": "0"},
    }
    yield StudyStarted(time_ms=START_MS, study=name, spec=spec, facts=facts)
    workers = [(START_MS, pid, None) for pid in range(num_workers)]
    queue: list[tuple[int, int, Iterator[TrialEvent] | None]] = list(workers)
    heapq.heapify(queue)
    started = 0
    now_ms = START_MS
    while queue:
        now_ms, pid, trial = heapq.heappop(queue)
        event = next(trial, None) if trial is not None else None
        if event is None:
            if started == num_trials:
                continue
            trial = _trial_events(started, spec, chance, now_ms, pid)
            started += 1
            event = next(trial)
        yield event
        heapq.heappush(queue, (event.time_ms, pid, trial))
    yield StudyEnded(time_ms=now_ms, status=StudyStatus.FINISHED)


def _trial_events(
    number: int, spec: dict[str, Any], chance: random.Random, time_ms: int, pid: int
) -> Iterator[TrialEvent]:
    params = {
        "model.num_proxies": chance.choice([16, 32, 64, 128, 256]),
        "model.contrastive_temperature": math.exp(chance.uniform(math.log(0.02), 0.0)),
        "model.dropout": chance.uniform(0.0, 0.4),
    }
    config = {"name": spec["name"], "task": spec["task"], "training": spec["training"]} | {
        "model": spec["model"] | {key.removeprefix("model."): value for key, value in params.items()}
    }
    yield TrialStarted(time_ms=time_ms, trial=number, params=params, config=config)
    distance = abs(math.log(params["model.contrastive_temperature"] / 0.1))
    height = 0.62 - 0.03 * distance**2 - 0.5 * (params["model.dropout"] - 0.1) ** 2
    height += 0.02 * math.log2(params["model.num_proxies"] / 16) + chance.gauss(0, 0.01)
    failure = chance.random()
    total, every = spec["training"]["steps"], spec["training"]["eval_every"]
    last = 0
    metrics: dict[str, Any] = {}
    outcome, reason = Outcome.COMPLETE, ""
    for step in range(every, total + 1, every):
        time_ms += int(1000 * STEP_SECONDS * every * chance.uniform(0.9, 1.1))
        if failure < 0.04 and step > total // 3:
            outcome, reason = Outcome.DIVERGED, f"train_loss is nan at step {step}"
            break
        last = step
        progress = 1 - math.exp(-4 * step / total)
        metrics = {
            "val_accuracy": 0.1 + (height - 0.1) * progress + chance.gauss(0, 0.004),
            "val_loss": 2.3 - 1.5 * progress,
            "train_loss": 2.3 - 1.7 * progress,
            "contrastive_loss": 3.0 - progress,
            "proxy_cosine": 0.05 + 0.3 * params["model.contrastive_temperature"] + chance.gauss(0, 0.01),
            "seconds": step * STEP_SECONDS,
            "tokens_per_second": 41_000 * chance.uniform(0.95, 1.05),
            "parameters": 200_000 + 128 * params["model.num_proxies"],
            "train_memory_mib_per_sequence": 20 + params["model.num_proxies"] / 8,
        }
        yield Reported(time_ms=time_ms, trial=number, step=step, metrics=metrics, node="127.0.0.1", pid=pid)
        if step in (every, 3 * every, 9 * every) and chance.random() < 0.45:
            outcome, reason = Outcome.PRUNED, f"not among the best at step {step}"
            break
    if outcome == "complete" and failure > 0.97:
        outcome, reason = Outcome.OUT_OF_MEMORY, "the worker ran out of memory"
    yield TrialEnded(
        time_ms=time_ms, trial=number, step=last, metrics=metrics, outcome=outcome, reason=reason
    )
