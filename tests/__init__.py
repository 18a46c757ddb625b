"""Four beds, cheapest first: unit, board, kvm, guest (docs/testing.md)."""
