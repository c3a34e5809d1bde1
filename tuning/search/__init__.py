"""The search: proposal of trials, early stopping, and the controller, the only writer of trial states."""
