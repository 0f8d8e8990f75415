"""PCA over shards and stores: fitting it on a sample, applying it to a store."""
