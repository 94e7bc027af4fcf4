"""From many sub-networks to one network."""
