"""Recording episodes: the episode's life, the bag on disk, and the repair of bags whose recorder was killed."""
