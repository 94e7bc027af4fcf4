"""Variable projection: the functional, its Jacobian and its minimisation. It knows no images."""
