"""The commands of `qsweep`, by what they are for."""
