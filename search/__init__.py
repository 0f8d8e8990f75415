"""Model and features in, index and matches out: similarities, the faiss index, queries."""
