"""Back ends of character devices: ``backend`` is the contract, the others implement it."""
