"""What refuses and what ends: modes, gates, the cutter of flows, previews of them."""
