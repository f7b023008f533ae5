"""The report on a dataset: measures of quality, figures, page, command line. May import rlds."""
