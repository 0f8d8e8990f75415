"""Video files in, verified WebDataset shards out: probing, decoding, encoding, manifests, edited copies."""
