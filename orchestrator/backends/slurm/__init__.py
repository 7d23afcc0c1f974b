"""Agents as elements of Slurm arrays, submitted through submitit."""

from qsweep.orchestrator.backends.slurm.backend import SlurmBackend

__all__ = ["SlurmBackend"]
