"""The file formats that are not our own: one module for each that can be read or written."""
