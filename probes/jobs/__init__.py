"""Jobs: a job is one run of a configuration, alone or in a sweep, in one process or several."""
