"""Programs that a person starts: record, teleop, recover, doctor. May import all other folders of the package."""
