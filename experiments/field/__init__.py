"""Accuracy, parameters and seconds of the recipes, beside the field; what settings are worth."""
