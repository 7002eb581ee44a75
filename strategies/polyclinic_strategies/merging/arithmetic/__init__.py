"""What rules are made of: one parameter of all sites, exact sums, pieces, linear algebra."""
