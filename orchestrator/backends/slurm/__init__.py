"""Agents as elements of Slurm arrays, submitted through submitit."""

from orchestrator.backends.slurm.backend import SlurmBackend

__all__ = ["SlurmBackend"]
