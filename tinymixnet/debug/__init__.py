"""For whoever ports MixNet: record layers, compare two runs, find the mistake behind an error."""
