"""Training in integers: a traced network, evaluated on grids."""
