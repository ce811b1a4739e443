"""One HTML page that shows what every layer of the network computes for a photo."""
