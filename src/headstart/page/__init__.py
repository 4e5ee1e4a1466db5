"""What every page has in common: style, elements, the three-dimensional scene, and its assembly."""
