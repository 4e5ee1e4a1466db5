"""Our datasets in the formats of others."""
