"""Tuning by Ray Tune over a sweep's own axes. Every trial is a job of the registry."""
