"""Find the weights of a MixNet in the graph of another framework."""
