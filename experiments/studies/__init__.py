"""One file per study, each run by one command."""
