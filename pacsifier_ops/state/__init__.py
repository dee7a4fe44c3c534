"""State that outlives a run: leases, ledger, trees, deliveries, approved lists, the audit file."""
