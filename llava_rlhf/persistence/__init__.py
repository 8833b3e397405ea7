"""What makes a run survive: whole files, its exact state, its record, and how it stops when it is told to."""
