"""What workers of a local Ray import when they start: Tune, torch and the trainer.

Objects created by imports stay, so the garbage collector searches them for nothing. Without it the imports take 5.6
instead of 6.9 s of CPU time.
"""

import gc
import importlib

gc.disable()
for name in (
    "proxytune.tuning.cluster.trainable",
    "proxytune.tuning.trial.trial_run",
    "proxytune.tuning.trial.efficiency",
):
    importlib.import_module(name)
gc.enable()
