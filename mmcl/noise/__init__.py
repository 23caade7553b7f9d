"""Which pairs of noisy data are to be trusted."""
