"""What a machine uses of its host: opened by itself, or by its broker once it is locked down."""
