"""What the feature store consists of, and what changes it: blocks, rows, take-downs, joining."""
