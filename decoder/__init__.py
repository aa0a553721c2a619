"""Stream and weights in, enhanced frames out: to a screen, a file or a pipe."""
