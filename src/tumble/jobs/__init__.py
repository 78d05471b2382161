"""Jobs: Settings in, a Result out. Jobs do not call each other."""
