"""Shards in, PCA-reduced frame features out: encoders, PCA, the feature store."""
