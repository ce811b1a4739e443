"""The recorders of `weights_tools.record`, one module for each framework."""
