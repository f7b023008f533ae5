"""The result of a series of episodes: records and rates, pictures, video. May import plan, suites and statistics."""
