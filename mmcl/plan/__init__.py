"""What a training will cost, before it starts: `planning.make_plan`."""
