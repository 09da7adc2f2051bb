"""Plans: the stages of a rechunk, what they take, and how the cheapest are found."""
