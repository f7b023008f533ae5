"""What a series of trials amounts to: records, pictures, video. May import suites and statistics."""
