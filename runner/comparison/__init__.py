"""Whether an agent changed between two sets of runs, and by how much: pure functions of what became of the runs."""
