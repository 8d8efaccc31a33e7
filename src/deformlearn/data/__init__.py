"""Files to observations: the only place that knows a data set's format."""
