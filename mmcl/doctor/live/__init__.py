"""The doctor beside a training: cheap numbers taken on the way, and what they say while it runs."""
