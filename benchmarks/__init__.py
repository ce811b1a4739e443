"""How fast tinymixnet is: beside others (compare), by layer (layers), by input size (scaling)."""
