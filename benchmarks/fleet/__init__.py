"""A fleet of a thousand agents on one Postgres, and what its registry takes. `python -m benchmarks.fleet`

The server is that of `qsweep db serve`, with full durability. Each agent is a thread of one of a few processes, with a
registry connection, a heartbeat and a merging thread of its own, all of them the real ones; its trainings only wait.
It claims cohorts, records two checkpoints of each with curves, writes real Parquet files and has them counted. Beside
it run a real launcher (whose agents are elsewhere) and three real `qsweep status --watch`, each on a terminal. Half of
the processes are killed with SIGKILL while their agents work, and others take their place once the leases have run out;
later the server is stopped hard and started again. At the end everything is counted by plain SQL and plain pyarrow.

`--part watchers` measures the launcher and the watchers alone, on a registry of that size at which a few agents work;
it runs on older versions of the code too.
"""
