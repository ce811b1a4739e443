"""Write weights, or the whole network with them, in the formats of other frameworks."""
