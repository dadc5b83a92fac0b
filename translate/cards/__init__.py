"""Cards: data sets that are fetched by name, verified, unpacked safely and kept as they were."""
