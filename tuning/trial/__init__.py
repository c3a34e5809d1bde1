"""One trial: its training, its turns on a Ray worker, its checkpoints."""
