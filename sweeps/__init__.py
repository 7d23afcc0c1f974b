"""What is asked: sweep files, the grid, the job and its identity. No SQL, no torch."""
