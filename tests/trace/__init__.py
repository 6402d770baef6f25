"""A cluster's trace through the whole system: imported late and in disorder, and again as its time comes."""
