"""One recipe per data set."""
