"""What is done: the command line, the planner, the backends that start workers. No torch."""
