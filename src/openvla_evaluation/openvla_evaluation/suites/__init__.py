"""Tasks as data: what is asked for, in which words, from which initial states."""
