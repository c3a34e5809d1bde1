"""Running a study: opening it, the driver, progress."""
