"""One module for each file format that is not our own."""
