"""What a run needs before it starts: estimates of memory and time, `--dry-run`. May import the configuration and set-up."""
