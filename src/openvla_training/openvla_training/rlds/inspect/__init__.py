"""The report of a dataset: figures and warnings (`quality`), drawings, and one HTML page. May import rlds."""
