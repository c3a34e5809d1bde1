"""Publishes a confirmation to the study's journal and to MLflow."""

from proxytune.tuning.errors import StorageError
from proxytune.tuning.journal.events import Confirmed, ConfirmedCandidate, TestedWinner
from proxytune.tuning.journal.recovery import open_journal
from proxytune.tuning.run.driver import DRAIN_SECONDS
from proxytune.tuning.store.confirmation import Confirmation
from proxytune.tuning.store.study import Study
from proxytune.tuning.tracking.shipper import Shipper


def publish(study: Study, confirmation: Confirmation) -> None:
    """Append the confirmation to the study's journal and ship it to the study's MLflow run, if MLflow responds."""
    test = confirmation.test
    event = Confirmed(
        objective=confirmation.objective,
        candidates=tuple(
            ConfirmedCandidate(
                trial=candidate.trial,
                seeds=dict(zip(candidate.seeds, candidate.values, strict=False)),
                mean=candidate.mean,
                low=candidate.interval[0] if candidate.interval else None,
                high=candidate.interval[1] if candidate.interval else None,
            )
            for candidate in confirmation.candidates
            if candidate.mean is not None
        ),
        winner=confirmation.winner,
        rule=confirmation.rule,
        test=test
        and TestedWinner(
            mean=test.mean,
            low=test.interval[0] if test.interval else None,
            high=test.interval[1] if test.interval else None,
            num_models=len(test.values),
            num_examples=test.num_examples,
            openings=test.openings,
        ),
    )
    try:
        journal = open_journal(study)
        journal.append(event)
        journal.close()
    except OSError as error:
        raise StorageError(f"{study.folder / 'outbox'}: {error.strerror}") from None
    shipper = Shipper(study.folder / "outbox", study.tracking_uri, study.spec.tracking.experiment)
    shipper.start()
    shipper.close(DRAIN_SECONDS)
