"""How what is stored is read and written: files whole or not at all, tensors, JSON held to its schema."""
