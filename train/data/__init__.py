"""From labels and a feature store to batches: who is whose positive, in which order, in which window."""
