"""The report of a study: table, plots and page."""
