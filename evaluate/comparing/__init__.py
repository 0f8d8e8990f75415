"""Two systems on one benchmark: judged again on what both have, or by the figures of each query."""
