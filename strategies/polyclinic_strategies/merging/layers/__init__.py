"""One parameter of all sites: what rules see, exact sums, pieces, linear algebra."""
