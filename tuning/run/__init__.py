"""Running a study: begin, drive, show progress."""
