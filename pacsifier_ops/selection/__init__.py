"""Which studies and series of a row are wanted: the rules of a selection, and the decision by them. No I/O."""
