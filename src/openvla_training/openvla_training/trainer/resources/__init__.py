"""Before a run starts: estimates of memory and time, `--dry-run`. May import the configuration and set-up."""
