"""What is remembered: the job registry, the result store, their schemas and migrations. No torch."""
