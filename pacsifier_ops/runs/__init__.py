"""One run, whatever its job: its folder, workers, accounts, report, progress and approvals."""
