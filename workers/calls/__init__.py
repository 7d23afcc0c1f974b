"""Calls of the user's code: each in a process of its own, forked from one that has imported the user's file."""
