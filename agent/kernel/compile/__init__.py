"""From C to compiled programs, and the cache that keeps them."""
