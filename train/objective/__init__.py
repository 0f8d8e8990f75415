"""What training minimises: a loss over positives and a memory of negatives, masked by ids."""
