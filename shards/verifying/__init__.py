"""Looking at finished shards: tables, archives, and what they say about one another."""
