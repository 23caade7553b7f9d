"""What builds: recipes to trainings, tasks to evaluators, suites to plans; `mmcl.build` has the names people use."""
