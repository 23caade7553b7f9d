"""The doctor after a training: checks of its data, model and records that name the cause."""
