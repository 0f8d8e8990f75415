"""The published benchmarks: their ground truth, their protocols as corrected and as published, and the figures."""
