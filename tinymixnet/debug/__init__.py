"""Debug a port of MixNet: record layers, compare two runs, name the mistake behind an error."""
