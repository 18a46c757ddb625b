"""Host ends of character devices: ``backend`` is the contract, the other modules fulfil it."""
