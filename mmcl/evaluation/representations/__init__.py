"""What frozen embeddings hold: probes, nearest neighbours, clusters, geometry, shifts of domain."""
