"""From a list of inputs to shards, tables and an account of every input."""
