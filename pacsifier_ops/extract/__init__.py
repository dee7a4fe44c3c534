"""From checked rows to verified series on disk: intake, find, plan, retrieve, report."""
