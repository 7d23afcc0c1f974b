"""What an agent does for each kind of job: one module a kind, which `sweeps.kinds` names."""
