"""Proves and measures on a GPU, in one command, what the engine does there: see `docs/howto/gpu-day.md`."""
