"""From row numbers to batches: reading, worker processes, kept tokens, and a loader for any loop."""
