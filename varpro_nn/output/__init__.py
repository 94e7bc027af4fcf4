"""The last linear layer, fitted on the features of all units."""
