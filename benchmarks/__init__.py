"""How fast tinymixnet is, beside others and layer by layer: compare, layers and scaling."""
