"""What workers of a local Ray import when they start: Tune, torch and the trainer."""

from proxytune.tuning.store.importing import importing

with importing():
    import proxytune.tuning.cluster.trainable
    import proxytune.tuning.trial.efficiency
    import proxytune.tuning.trial.trial_run  # noqa: F401
