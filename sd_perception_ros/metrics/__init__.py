"""How good a prediction is: the field's measures, on numpy arrays, one file for each subject."""
