"""Where data come from: one file for each form that people keep them in, and `load`, which takes any."""
