"""From relative depth to metres: references, fit, filter, and the decision."""
