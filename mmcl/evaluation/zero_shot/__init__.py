"""Zero-shot classification: prompts, the classifier they make, its metrics and what they stand against."""
