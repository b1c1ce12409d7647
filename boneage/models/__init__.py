"""The networks, as plain ``nn.Module``s, and the registry that names them."""
