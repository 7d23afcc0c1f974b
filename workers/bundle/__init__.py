"""The door to machines that reach no registry: a bundle's files, its queue, and the agents that work it off there."""
