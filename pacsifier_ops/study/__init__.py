"""A study: one run from a query table to a data set that may be shared, composed of the runs of the single DAGs."""
